//! The VM from outside: made with `gcloud`, and made so that it comes back by itself.
//!
//! What runs where. A **data disk** that nothing here ever deletes unasked. An **instance template**: Spot,
//! the notice, no service account, a start-up script of a few lines. A **managed instance group** with
//! one member, whose *per-instance configuration* holds the data disk: whenever the VM is gone, the group
//! makes it anew from the template, under the same name, with the same disk. So nobody has to be awake.
//!
//! Each journey has the same three parts. A [`discover`] reads what exists. A plan, which is a pure function of
//! what is wanted and what exists, says which calls are missing; done twice, the second plan is empty, and a
//! plan that was cut is continued. Then the calls are made, one by one, each shown first.
//!
//! | file | what it knows |
//! |---|---|
//! | [`gcloud_command`], [`gcloud`], [`gcloud_error`] | one call of gcloud; who makes it; what its refusals mean |
//! | [`machine_family`], [`vm_spec`] | which machines and disks go together; what the VM is to be |
//! | [`discover`], [`plan`] | what exists; what is missing |
//! | [`scripts`], [`ssh`] | what runs on the VM at boot; the VM asked from outside, by ssh |
//! | [`create`], [`adopt`], [`start_stop`], [`status`], [`delete`], [`preempt`] | the journeys |
//!
//! `stop` and `start` are the group's own (`stop-instances`), not a size of 0: shrinking a group deletes its
//! member together with the per-instance configuration, and stopping the VM behind the group's back makes the
//! group bring it back.

pub mod adopt;
pub mod create;
pub mod delete;
pub mod discover;
#[cfg(test)]
mod fake_gcloud;
pub mod gcloud;
pub mod gcloud_command;
pub mod gcloud_error;
pub mod machine_family;
pub mod plan;
pub mod preempt;
pub mod queries;
pub mod scripts;
pub mod ssh;
pub mod start_stop;
pub mod status;
pub mod vm_spec;

pub use gcloud::{Cloud, Gcloud};
pub use gcloud_command::{Call, quote};
pub use gcloud_error::{Fault, Refusal};
pub use vm_spec::{Shape, VmRequest};

/// The label on the disk and in the template that says whose they are; its value is the VM's name.
pub const LABEL: &str = "spotkeep";

#[cfg(test)]
mod tests;
