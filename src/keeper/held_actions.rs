//! Write ordering: holds back actions and replies until all earlier writes are durable.
//!
//! There is one queue for the whole fleet, and not one for each agent: an action waits for every
//! write that was ordered before it, of any agent. This keeps the order of the supervisor's
//! actions, and it is no slower, since the writes go through one queue anyway.

use std::collections::{BTreeSet, VecDeque};

use super::protocol::Reply;
use super::socket::ReplyTo;
use supervisor::Action;

/// The number of a write, in the order in which writes were ordered.
pub(super) type Ticket = u64;

/// An action or a reply that is held back.
#[derive(Debug)]
pub(super) enum Held {
    Action(Action),
    Reply(ReplyTo, Reply),
}

/// The writes under way, and the actions and replies held back behind them.
#[derive(Debug, Default)]
pub(super) struct WriteOrder {
    last: Ticket,
    under_way: BTreeSet<Ticket>,
    held: VecDeque<(Ticket, Held)>,
}

impl WriteOrder {
    /// Registers a write that is about to be ordered.
    pub(super) fn begin(&mut self) -> Ticket {
        self.last += 1;
        self.under_way.insert(self.last);
        self.last
    }

    /// Returns `next` if no write is under way; holds it back otherwise.
    pub(super) fn pass(&mut self, next: Held) -> Option<Held> {
        if self.under_way.is_empty() && self.held.is_empty() {
            return Some(next);
        }
        // A screen scan that is due again while it is held back is done once.
        let is_there = |action: &Action| {
            let mut held = self.held.iter();
            held.any(|(_, held)| matches!(held, Held::Action(held) if held == action))
        };
        if let Held::Action(scan @ Action::ScanScreen { .. }) = &next
            && is_there(scan)
        {
            return None;
        }
        self.held.push_back((self.last, next));
        None
    }

    /// Removes a write that was answered.
    pub(super) fn end(&mut self, ticket: Ticket) {
        self.under_way.remove(&ticket);
    }

    /// Returns the next action or reply that need not be held back any longer.
    pub(super) fn next(&mut self) -> Option<Held> {
        let (behind, _) = self.held.front()?;
        let waits = self.under_way.first().is_some_and(|first| first <= behind);
        match waits {
            true => None,
            false => self.held.pop_front().map(|(_, held)| held),
        }
    }

    /// Returns the replies that are held back, when the keeper ends.
    pub(super) fn answers(&mut self) -> impl Iterator<Item = (ReplyTo, Reply)> + '_ {
        self.held.drain(..).filter_map(|(_, held)| match held {
            Held::Reply(to, reply) => Some((to, reply)),
            Held::Action(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::AgentName;

    fn launch(attempt: u64) -> Action {
        Action::Launch {
            name: AgentName::new("a").unwrap(),
            attempt,
        }
    }

    fn scan() -> Held {
        Held::Action(Action::ScanScreen {
            name: AgentName::new("a").unwrap(),
            attempt: 1,
        })
    }

    fn ready(order: &mut WriteOrder) -> Vec<Action> {
        let held = std::iter::from_fn(|| order.next());
        held.filter_map(|held| match held {
            Held::Action(action) => Some(action),
            Held::Reply(..) => None,
        })
        .collect()
    }

    #[test]
    fn an_action_waits_for_every_earlier_write_and_for_no_later_one() {
        let mut order = WriteOrder::default();
        assert!(order.pass(Held::Action(launch(0))).is_some());
        let first = order.begin();
        let second = order.begin();
        assert!(order.pass(Held::Action(launch(1))).is_none());
        let third = order.begin();
        assert!(order.pass(Held::Action(launch(2))).is_none());
        // A write that is refused at once is answered before those in front of it.
        order.end(third);
        order.end(second);
        assert_eq!(ready(&mut order), []);
        let fourth = order.begin();
        order.end(first);
        assert_eq!(ready(&mut order), [launch(1), launch(2)]);
        assert!(order.pass(Held::Action(launch(3))).is_none());
        order.end(fourth);
        assert_eq!(ready(&mut order), [launch(3)]);
        assert!(order.pass(Held::Action(launch(4))).is_some());
    }

    #[test]
    fn a_screen_scan_that_is_due_again_while_it_is_held_back_is_done_once() {
        let mut order = WriteOrder::default();
        let ticket = order.begin();
        assert!(order.pass(scan()).is_none());
        assert!(order.pass(scan()).is_none());
        order.end(ticket);
        assert_eq!(ready(&mut order).len(), 1);
    }
}
