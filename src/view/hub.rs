//! What there is to show: the last keyframes and lines for those who come later, everything as it
//! happens for those who watch.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::types::epoch_seconds;

/// Keyframes that one who comes later is shown; the page's strip holds as many.
const KEYFRAMES: usize = 24;

/// Lines that one who comes later is shown.
const LINES: usize = 50;

/// Pictures that can be fetched: a page may be some keyframes behind.
const PICTURES: usize = 256;

/// Events that a slow watcher may be behind.
const BEHIND: usize = 256;

/// Something that happened: the name of the event and its JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// As in `event:` of the stream.
    pub name: &'static str,
    /// As in `data:`.
    pub data: String,
}

#[derive(Debug, Default)]
struct Shown {
    keyframes: VecDeque<Event>,
    lines: VecDeque<Event>,
    report: Option<Event>,
    pictures: VecDeque<(u64, PathBuf)>,
    connected: bool,
    ended: Option<Event>,
}

/// What is shown, and who watches.
#[derive(Debug)]
pub struct Hub {
    hello: Event,
    shown: Mutex<Shown>,
    watching: broadcast::Sender<Event>,
}

/// What one who comes now has to be told, and what happens from then on.
pub struct Watching {
    /// So far.
    pub before: Vec<Event>,
    /// From now on.
    pub next: broadcast::Receiver<Event>,
}

impl Hub {
    /// Nothing has happened; `hello` is what everyone is told first.
    #[must_use]
    pub fn new(hello: &Value) -> Self {
        let hello = Event { name: "hello", data: hello.to_string() };
        Self { hello, shown: Mutex::default(), watching: broadcast::channel(BEHIND).0 }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A keyframe is on disk; `picture` is what a browser can show of it, if anything.
    pub fn keyframe(&self, seq: u64, mut known: Value, picture: Option<PathBuf>) {
        known["url"] = match &picture {
            Some(_) => json!(format!("frames/{seq}")),
            None => Value::Null,
        };
        let event = Event { name: "keyframe", data: known.to_string() };
        let mut shown = self.shown();
        keep(&mut shown.keyframes, event.clone(), KEYFRAMES);
        if let Some(picture) = picture {
            keep(&mut shown.pictures, (seq, picture), PICTURES);
        }
        self.tell(event);
    }

    /// How the session is; `connected` is whether a text would get through.
    pub fn report(&self, connected: bool, known: Value) {
        let event = Event { name: "report", data: at(known) };
        let mut shown = self.shown();
        shown.connected = connected;
        shown.report = Some(event.clone());
        self.tell(event);
    }

    /// A line for people.
    pub fn line(&self, text: &str) {
        self.words("line", text);
    }

    /// A text of the other side.
    pub fn text(&self, text: &str) {
        self.words("text", text);
    }

    fn words(&self, name: &'static str, text: &str) {
        let event = Event { name, data: at(json!({"text": text})) };
        let mut shown = self.shown();
        keep(&mut shown.lines, event.clone(), LINES);
        self.tell(event);
    }

    /// It is over.
    pub fn end(&self, reason: &str) {
        let event = Event { name: "end", data: at(json!({"reason": reason})) };
        self.shown().ended = Some(event.clone());
        self.tell(event);
    }

    /// Nobody watching is no failure.
    fn tell(&self, event: Event) {
        let _ = self.watching.send(event);
    }

    /// For one who comes now: what there is, and nothing between that and what comes is left out.
    #[must_use]
    pub fn watch(&self) -> Watching {
        let shown = self.shown();
        let next = self.watching.subscribe();
        let mut before = vec![self.hello.clone()];
        before.extend(shown.keyframes.iter().chain(&shown.lines).cloned());
        before.extend(shown.report.iter().chain(&shown.ended).cloned());
        Watching { before, next }
    }

    /// The file with the picture of a keyframe.
    #[must_use]
    pub fn picture(&self, seq: u64) -> Option<PathBuf> {
        let shown = self.shown();
        shown.pictures.iter().find(|(known, _)| *known == seq).map(|(_, path)| path.clone())
    }

    /// Whether there is a connection that a text could go over.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shown().connected
    }
}

/// The JSON with the time it was told, seconds since 1970.
fn at(mut known: Value) -> String {
    known["at"] = json!(epoch_seconds(SystemTime::now()));
    known.to_string()
}

fn keep<T>(kept: &mut VecDeque<T>, new: T, most: usize) {
    kept.push_back(new);
    if kept.len() > most {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.name).collect()
    }

    #[tokio::test]
    async fn who_comes_later_sees_the_last_ones_and_what_follows() {
        let hub = Hub::new(&json!({"role": "recv"}));
        for seq in 1..=300 {
            hub.keyframe(seq, json!({"seq": seq}), (seq != 299).then(|| "a.jpg".into()));
        }
        hub.line("a line");
        hub.report(true, json!({"state": "connected"}));
        assert!(hub.is_connected());
        let mut watching = hub.watch();
        assert_eq!(watching.before.len(), 1 + KEYFRAMES + 2);
        assert_eq!(names(&watching.before[..2]), ["hello", "keyframe"]);
        assert!(watching.before[KEYFRAMES].data.contains(r#""url":"frames/300""#));
        assert!(watching.before[KEYFRAMES - 1].data.contains(r#""url":null"#));
        assert_eq!(hub.picture(300), Some("a.jpg".into()));
        assert_eq!((hub.picture(299), hub.picture(1)), (None, None));
        hub.end("stopped");
        assert_eq!(watching.next.recv().await.unwrap().name, "end");
        assert_eq!(names(&hub.watch().before).last(), Some(&"end"));
    }
}
