//! Tests of the supervisor: sequences of events, and the actions that they must lead to.

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
