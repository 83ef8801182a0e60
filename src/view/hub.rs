//! Distributes events to viewers: recent keyframes and lines for new viewers, all further events as they happen.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::{lock::locked, types::epoch_seconds};

/// Number of keyframes replayed to a new viewer; the page's strip holds as many.
const KEYFRAMES: usize = 24;

/// Number of lines replayed to a new viewer.
const LINES: usize = 50;

/// Number of pictures that can be fetched: a page may lag some keyframes behind.
const PICTURES: usize = 256;

/// Maximum number of events queued for a slow viewer.
const MAX_QUEUED: usize = 256;

/// A Server-Sent Event.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewerEvent {
    /// The `event:` field: the type.
    pub name: &'static str,
    /// The `data:` field: JSON.
    pub data: String,
}

#[derive(Debug, Default)]
struct HubState {
    keyframes: VecDeque<ViewerEvent>,
    lines: VecDeque<ViewerEvent>,
    report: Option<ViewerEvent>,
    pictures: VecDeque<(u64, PathBuf)>,
    connected: bool,
    ended: Option<ViewerEvent>,
}

/// The state of the page and its viewers.
#[derive(Debug)]
pub struct Hub {
    hello: ViewerEvent,
    state: Mutex<HubState>,
    viewers: broadcast::Sender<ViewerEvent>,
}

/// The events for one viewer.
pub struct Subscription {
    /// Past events to replay.
    pub before: Vec<ViewerEvent>,
    /// All further events.
    pub next: broadcast::Receiver<ViewerEvent>,
}

impl Hub {
    /// Creates a hub; `hello` is the first event for every viewer.
    #[must_use]
    pub fn new(hello: &Value) -> Self {
        let hello = ViewerEvent { name: "hello", data: hello.to_string() };
        Self { hello, state: Mutex::default(), viewers: broadcast::channel(MAX_QUEUED).0 }
    }

    fn state(&self) -> MutexGuard<'_, HubState> {
        locked(&self.state)
    }

    /// Publishes a stored keyframe; `picture` is a file that browsers can show, if there is one.
    pub fn keyframe(&self, seq: u64, mut known: Value, picture: Option<PathBuf>) {
        known["url"] = match &picture {
            Some(_) => json!(format!("frames/{seq}")),
            None => Value::Null,
        };
        let event = ViewerEvent { name: "keyframe", data: known.to_string() };
        let mut state = self.state();
        keep(&mut state.keyframes, event.clone(), KEYFRAMES);
        if let Some(picture) = picture {
            keep(&mut state.pictures, (seq, picture), PICTURES);
        }
        self.publish(event);
    }

    /// Publishes a session report; `connected` is whether a text message could be delivered.
    pub fn report(&self, connected: bool, known: Value) {
        let event = ViewerEvent { name: "report", data: timestamped(known) };
        let mut state = self.state();
        state.connected = connected;
        state.report = Some(event.clone());
        self.publish(event);
    }

    /// Publishes a human-readable line.
    pub fn line(&self, text: &str) {
        self.publish_text("line", text);
    }

    /// Publishes a text message from the peer.
    pub fn text(&self, text: &str) {
        self.publish_text("text", text);
    }

    fn publish_text(&self, name: &'static str, text: &str) {
        let event = ViewerEvent { name, data: timestamped(json!({"text": text})) };
        let mut state = self.state();
        keep(&mut state.lines, event.clone(), LINES);
        self.publish(event);
    }

    /// Publishes the end of the session.
    pub fn end(&self, reason: &str) {
        let event = ViewerEvent { name: "end", data: timestamped(json!({"reason": reason})) };
        self.state().ended = Some(event.clone());
        self.publish(event);
    }

    /// Sends an event to all viewers; having none is not an error.
    fn publish(&self, event: ViewerEvent) {
        let _ = self.viewers.send(event);
    }

    /// Subscribes a new viewer, without a gap between past and further events.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let state = self.state();
        let next = self.viewers.subscribe();
        let mut before = vec![self.hello.clone()];
        before.extend(state.keyframes.iter().chain(&state.lines).cloned());
        before.extend(state.report.iter().chain(&state.ended).cloned());
        Subscription { before, next }
    }

    /// The file with the picture of a keyframe.
    #[must_use]
    pub fn picture(&self, seq: u64) -> Option<PathBuf> {
        let state = self.state();
        state.pictures.iter().find(|(known, _)| *known == seq).map(|(_, path)| path.clone())
    }

    /// Whether a text message could be delivered.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state().connected
    }
}

/// Adds the current time, in seconds since 1970, to the JSON.
fn timestamped(mut known: Value) -> String {
    known["at"] = json!(epoch_seconds(SystemTime::now()));
    known.to_string()
}

fn keep<T>(kept: &mut VecDeque<T>, new: T, maximum: usize) {
    kept.push_back(new);
    if kept.len() > maximum {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[ViewerEvent]) -> Vec<&str> {
        events.iter().map(|event| event.name).collect()
    }

    #[tokio::test]
    async fn new_viewers_get_recent_events_and_all_further_ones() {
        let hub = Hub::new(&json!({"role": "recv"}));
        for seq in 1..=300 {
            hub.keyframe(seq, json!({"seq": seq}), (seq != 299).then(|| "a.jpg".into()));
        }
        hub.line("a line");
        hub.report(true, json!({"state": "connected"}));
        assert!(hub.is_connected());
        let mut watching = hub.subscribe();
        assert_eq!(watching.before.len(), 1 + KEYFRAMES + 2);
        assert_eq!(names(&watching.before[..2]), ["hello", "keyframe"]);
        assert!(watching.before[KEYFRAMES].data.contains(r#""url":"frames/300""#));
        assert!(watching.before[KEYFRAMES - 1].data.contains(r#""url":null"#));
        assert_eq!(hub.picture(300), Some("a.jpg".into()));
        assert_eq!((hub.picture(299), hub.picture(1)), (None, None));
        hub.end("stopped");
        assert_eq!(watching.next.recv().await.unwrap().name, "end");
        assert_eq!(names(&hub.subscribe().before).last(), Some(&"end"));
    }
}
