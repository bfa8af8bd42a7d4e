//! Provisions Spot VMs on Google Compute Engine with `gcloud`.
//!
//! The resources are: a **data disk**, which is deleted only on request; an **instance template**
//! (Spot, the notice, no service account, a short start-up script); and a **managed instance
//! group** with one member, whose *per-instance configuration* has the data disk. After a
//! preemption, the group recreates the VM from the template, with the same name and the same disk,
//! without any action of the user.
//!
//! Each verb has three steps. [`discover`] reads what exists. A plan, a pure function of the
//! request and of what exists, lists the calls that are missing: a second plan is empty, and a plan
//! that was interrupted is continued. Then the calls are shown and made, one by one.
//!
//! | module | contents |
//! |---|---|
//! | [`gcloud_command`], [`gcloud`], [`gcloud_error`] | a gcloud command; running it; its errors |
//! | [`machine_family`], [`vm_spec`] | valid pairs of machine and disk types; the specification of the VM |
//! | [`discover`], [`plan`] | the existing resources; the missing calls |
//! | [`scripts`], [`ssh`] | the start-up script; commands on the VM over ssh |
//! | [`create`], [`adopt`], [`start_stop`], [`status`], [`delete`], [`preempt`] | the verbs |
//!
//! `stop` and `start` use the group's `stop-instances` and `start-instances`. A group that is
//! resized to 0 deletes its member together with the per-instance configuration, and a VM that is
//! stopped directly is started again by the group.

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

/// The label on the disk and in the template; its value is the VM's name.
pub const LABEL: &str = "spotkeep";

#[cfg(test)]
mod tests;
