//! Token counts of a session, from its transcript. Pure.
//!
//! A message of several blocks is written as several records, and each has the cost of the whole
//! message: it is counted once, by its id. Records of parallel messages may stand between.

use std::collections::VecDeque;

use super::record::{Cost, Record, RecordKind, Tokens};

/// Records of one message are this close together, counted in messages.
const NEAR: usize = 32;

/// Tokens counted so far.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    total: Tokens,
    context: u64,
    /// The last few messages, with the tokens that were counted for each.
    near: VecDeque<(String, Tokens)>,
}

impl Counters {
    /// Adds the next record of the file.
    pub fn push(&mut self, record: &Record) {
        let RecordKind::Assistant {
            cost: Some(cost), ..
        } = &record.kind
        else {
            return;
        };
        self.count(cost);
        if !record.sidechain {
            let given = cost.tokens;
            self.context = given.fresh().saturating_add(given.cache_read);
        }
    }

    fn count(&mut self, cost: &Cost) {
        let counted = cost.message.as_ref().and_then(|id| {
            let mut near = self.near.iter_mut();
            near.find(|(known, _)| known == id)
        });
        if let Some((_, counted)) = counted {
            // A message that was still streaming may have been recorded with fewer tokens.
            let more = cost.tokens.output.saturating_sub(counted.output);
            counted.output = counted.output.saturating_add(more);
            self.total.output = self.total.output.saturating_add(more);
            return;
        }
        self.total = self.total.and(cost.tokens);
        if let Some(id) = &cost.message {
            self.near.push_back((id.clone(), cost.tokens));
            if self.near.len() > NEAR {
                self.near.pop_front();
            }
        }
    }

    /// Returns the sum of all tokens.
    #[must_use]
    pub fn total(&self) -> Tokens {
        self.total
    }

    /// Returns the size of the model's context: the input of the last message, and its output.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.context
    }
}

impl Tokens {
    /// Returns the sum of both. Any process that can write a transcript can claim any number, so
    /// the sum stops at the largest value.
    fn and(self, more: Self) -> Self {
        Self {
            input: self.input.saturating_add(more.input),
            output: self.output.saturating_add(more.output),
            cache_written: self.cache_written.saturating_add(more.cache_written),
            cache_read: self.cache_read.saturating_add(more.cache_read),
        }
    }

    /// Returns the tokens that were new to the model or written by it: all but those read from its
    /// cache.
    #[must_use]
    pub fn fresh(self) -> u64 {
        self.input
            .saturating_add(self.cache_written)
            .saturating_add(self.output)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record(id: &str, output: u64, sidechain: bool) -> Record {
        let Value::Object(json) = json!({
            "type": "assistant", "isSidechain": sidechain,
            "message": {"id": id, "content": [{"type": "text", "text": "x"}], "usage": {
                "input_tokens": 10, "output_tokens": output,
                "cache_creation_input_tokens": 200, "cache_read_input_tokens": 3000,
            }},
        }) else {
            panic!("not an object")
        };
        Record::from_json(&json)
    }

    #[test]
    fn a_message_of_several_records_counts_once_with_its_largest_cost() {
        let mut counters = Counters::default();
        for (id, output) in [("a", 1), ("a", 5), ("b", 7), ("a", 5)] {
            counters.push(&record(id, output, false));
        }
        let expected = Tokens {
            input: 20,
            output: 12,
            cache_written: 400,
            cache_read: 6_000,
        };
        assert_eq!(counters.total(), expected);
        assert_eq!(counters.total().fresh(), 432);
        assert_eq!(counters.context(), 3_215);
    }

    #[test]
    fn token_counts_stop_at_the_largest_value() {
        let mut counters = Counters::default();
        counters.push(&record("a", u64::MAX, false));
        counters.push(&record("b", 1, false));
        assert_eq!(counters.total().fresh(), u64::MAX);
        counters.push(&record("c", u64::MAX, false));
        assert_eq!(counters.context(), u64::MAX);
    }

    #[test]
    fn a_subagents_tokens_count_but_not_for_the_agents_context() {
        let mut counters = Counters::default();
        counters.push(&record("a", 5, false));
        counters.push(&record("b", 1_000, true));
        assert_eq!(counters.total().output, 1_005);
        assert_eq!(counters.context(), 3_215);
    }
}
