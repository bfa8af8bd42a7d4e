//! The journey of a VM from new to ready: disk, mount, layout, links, programs, units. As root.

pub mod login_line;
pub mod upgrade;
