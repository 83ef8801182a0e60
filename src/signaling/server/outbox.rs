//! The bounded send queue of one socket. Adding to it never waits: a socket that reads too slowly
//! is closed, without affecting others.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use tokio::sync::Notify;

use super::{end::End, limits::Limits};
use crate::signaling::text::Text;
use crate::{
    lock::locked,
    proto::signaling::{LeaveReason, close},
};

/// The next frame for the socket's writer.
#[derive(Debug)]
pub(super) enum Item {
    Text(Text),
    /// A text from the other device, and the time at which it was queued.
    Relayed(Text, Instant),
    Ping(u64),
}

/// A queued frame.
#[derive(Debug)]
struct Waiting {
    text: Text,
    /// Whether it counts against the limits.
    counts: bool,
    /// The time at which it was queued, if it is from the other device.
    relayed: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiting>,
    counted: usize,
    bytes: usize,
    ping: Option<u64>,
    kick: Option<End>,
}

/// The send queue of a socket.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    max_messages: usize,
    max_bytes: usize,
    ready: Notify,
    kicked: Notify,
}

impl Outbox {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            max_messages: limits.queue_messages,
            max_bytes: limits.queue_bytes,
            ready: Notify::new(),
            kicked: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Queues a frame of the server; closes the socket if the queue is full.
    pub(super) fn push(&self, text: Text) {
        self.enqueue(text, None);
    }

    /// Queues a frame of the other device; closes the socket if the queue is full.
    pub(super) fn push_relayed(&self, text: Text) {
        self.enqueue(text, Some(Instant::now()));
    }

    fn enqueue(&self, text: Text, relayed: Option<Instant>) {
        let mut state = self.state();
        if state.kick.is_some() {
            return;
        }
        if state.counted >= self.max_messages || state.bytes + text.len() > self.max_bytes {
            drop(state);
            self.kick(End::with(
                close::SLOW_CONSUMER,
                "too many messages are waiting",
                LeaveReason::Closed,
            ));
            return;
        }
        state.counted += 1;
        state.bytes += text.len();
        state.queue.push_back(Waiting { text, counts: true, relayed });
        drop(state);
        self.ready.notify_one();
    }

    /// Queues a frame that was held. It is exempt from the limits, because the room limits held
    /// frames.
    pub(super) fn push_held(&self, text: Text) {
        let waiting = Waiting { text, counts: false, relayed: None };
        self.state().queue.push_back(waiting);
        self.ready.notify_one();
    }

    /// Queues a frame that may be lost: it is dropped if the queue is half full.
    pub(super) fn push_advisory(&self, text: Text) {
        if !self.is_half_full() {
            self.push(text);
        }
    }

    /// Whether the queue is at least half full, so that the peer should slow down.
    pub(super) fn is_half_full(&self) -> bool {
        let state = self.state();
        2 * state.counted >= self.max_messages || 2 * state.bytes >= self.max_bytes
    }

    /// Asks the writer to send a ping.
    pub(super) fn ping(&self, number: u64) {
        self.state().ping = Some(number);
        self.ready.notify_one();
    }

    /// Ends the socket; only the first reason counts.
    pub(super) fn kick(&self, end: End) {
        self.state().kick.get_or_insert(end);
        self.kicked.notify_one();
    }

    /// Waits for [`Outbox::kick`].
    pub(super) async fn kicked(&self) -> End {
        loop {
            if let Some(end) = self.state().kick {
                return end;
            }
            self.kicked.notified().await;
        }
    }

    /// Waits for something to write.
    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            self.ready.notified().await;
        }
    }

    fn pop(&self) -> Option<Item> {
        let mut state = self.state();
        if let Some(number) = state.ping.take() {
            return Some(Item::Ping(number));
        }
        let Waiting { text, counts, relayed } = state.queue.pop_front()?;
        if counts {
            state.counted -= 1;
            state.bytes -= text.len();
        }
        Some(match relayed {
            Some(since) => Item::Relayed(text, since),
            None => Item::Text(text),
        })
    }

    /// Removes and returns all queued texts, to send them before the close frame.
    pub(super) fn rest(&self) -> Vec<Text> {
        self.state().queue.drain(..).map(|waiting| waiting.text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(outbox: &Outbox) -> Option<u16> {
        outbox.state().kick.and_then(|end| end.code)
    }

    #[test]
    fn the_65th_message_and_the_257th_kibibyte_exceed_the_limits() {
        let limits = Limits::default();
        let outbox = Outbox::new(&limits);
        for _ in 0..64 {
            outbox.push("m".into());
        }
        assert_eq!(code(&outbox), None);
        outbox.push("m".into());
        assert_eq!(code(&outbox), Some(4003));

        let outbox = Outbox::new(&limits);
        for _ in 0..4 {
            outbox.push("x".repeat(64 * 1024).into());
        }
        assert_eq!(code(&outbox), None);
        outbox.push("x".into());
        assert_eq!(code(&outbox), Some(4003));
    }

    #[test]
    fn held_messages_do_not_count() {
        let outbox = Outbox::new(&Limits::default());
        for _ in 0..65 {
            outbox.push_held("m".into());
        }
        outbox.push("m".into());
        assert_eq!(code(&outbox), None);
        assert_eq!(outbox.rest().len(), 66);
    }

    #[test]
    fn advisory_messages_never_fill_the_queue() {
        let outbox = Outbox::new(&Limits::default());
        for _ in 0..1000 {
            outbox.push_advisory("m".into());
        }
        assert_eq!(code(&outbox), None);
        assert_eq!(outbox.rest().len(), 32);
    }

    #[test]
    fn written_messages_free_their_space() {
        let outbox = Outbox::new(&Limits::default());
        for _ in 0..1000 {
            outbox.push("m".into());
            assert!(matches!(outbox.pop(), Some(Item::Text(_))));
        }
        assert_eq!(code(&outbox), None);
    }

    #[tokio::test]
    async fn only_the_first_reason_to_end_counts() {
        let outbox = Outbox::new(&Limits::default());
        outbox.kick(End::with(4502, "", LeaveReason::Replaced));
        outbox.kick(End::with(1012, "", LeaveReason::Closed));
        assert_eq!(outbox.kicked().await.code, Some(4502));
    }
}
