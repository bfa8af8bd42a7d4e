//! What a cloud's metadata server tells: the notice, and the length that it will have.

pub mod gcp;
