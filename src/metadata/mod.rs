//! The cloud's metadata server: the preemption notice and its length.

pub mod gcp;
