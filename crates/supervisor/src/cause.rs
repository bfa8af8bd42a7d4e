//! Causes: maps exits of processes and stops of the API to what is shown and recorded.

use claude::ApiStop;
use state::{Cause, StallReason};
use sys::exit::Exit;

/// Returns the cause of the end of a process. A SIGKILL alone is never taken for lack of memory.
#[must_use]
pub fn cause_of_exit(exit: Exit) -> Cause {
    match exit {
        Exit::OutOfMemory(_) => Cause::OutOfMemory,
        Exit::Code(0) => Cause::Finished,
        Exit::Code(code) => Cause::Crashed {
            exit: Some(code),
            signal: None,
        },
        Exit::Signal(signal) => Cause::Crashed {
            exit: None,
            signal: Some(signal),
        },
        Exit::Unseen => Cause::Crashed {
            exit: None,
            signal: None,
        },
    }
}

/// Returns the cause of a turn that the API ended.
#[must_use]
pub fn cause_of_stop(stop: ApiStop) -> Cause {
    match stop {
        ApiStop::Limit { until } => Cause::Limit { until },
        ApiStop::Login => Cause::Login,
        other => Cause::Api {
            reason: reason_of_stop(other),
        },
    }
}

/// Returns the reason of a stalled turn, for the journal.
pub(crate) fn reason_of_stop(stop: ApiStop) -> StallReason {
    match stop {
        ApiStop::Limit { .. } => StallReason::Limit,
        ApiStop::Login => StallReason::Login,
        ApiStop::Overloaded => StallReason::Overloaded,
        ApiStop::RateLimited => StallReason::RateLimited,
        ApiStop::Server { .. } => StallReason::Server,
        ApiStop::Network => StallReason::Network,
        ApiStop::Refused { .. } => StallReason::Refused,
        ApiStop::Unknown => StallReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_not_taken_for_lack_of_memory_unless_the_kernel_reports_it() {
        let killed = cause_of_exit(Exit::Signal(9));
        assert_eq!(
            serde_json::to_string(&killed).unwrap(),
            r#"{"kind":"crashed","exit":null,"signal":9}"#
        );
        assert_eq!(cause_of_exit(Exit::OutOfMemory(None)), Cause::OutOfMemory);
        assert_eq!(cause_of_exit(Exit::Code(0)), Cause::Finished);
    }
}
