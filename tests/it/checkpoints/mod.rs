//! Tests of checkpoints with the real git, in every state that a workspace can have.

mod cases;
mod hostile;
mod repositories;
mod resilience;
mod round_trip;
