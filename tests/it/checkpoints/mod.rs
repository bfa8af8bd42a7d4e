//! Checkpoints, with the real git, of every state that a workspace can be in.

mod bench;
mod cases;
mod hostile;
mod round_trip;
mod withstood;
