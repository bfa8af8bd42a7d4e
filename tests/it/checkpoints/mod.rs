//! Checkpoints, with the real git, of every state that a workspace can be in.

mod cases;
mod hostile;
mod repositories;
mod resilience;
mod round_trip;
