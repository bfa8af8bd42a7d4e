//! the supervisor, played through: sequences of events, and what has to come of them.

mod commands;
mod lifecycle;
mod login;
mod long_run;
mod properties;
mod rollout;
mod scenarios;
mod support;
mod view;
mod waiting;
