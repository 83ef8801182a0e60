//! A thread that does things at their time, to some ten microseconds. Tokio's timers count whole
//! milliseconds, which is as much as a short link's delay.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A thread that had slept 25 ms was woken up to 2 ms late on a busy machine, one that had slept 1 ms
/// seldom was. So the thread wakes this long before the time and naps until then.
const EARLY: Duration = Duration::from_millis(3);

/// One nap.
const NAP: Duration = Duration::from_micros(250);

/// Things that may wait: 100 ms of 8 Gbit/s in full packets.
const CAPACITY: usize = 65_536;

struct Entry<T> {
    due: Instant,
    /// Of two that are due at once, the first pushed is done first.
    number: u64,
    thing: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

struct Waiting<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    pushed: u64,
    over: bool,
}

struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

/// The thread; dropping this ends it, and what waits is not done.
pub(super) struct Timer<T>(Arc<Shared<T>>);

impl<T: Send + 'static> Timer<T> {
    /// Starts the thread.
    pub(super) fn start(act: impl Fn(T) + Send + 'static) -> std::io::Result<Self> {
        let waiting = Waiting { heap: BinaryHeap::new(), pushed: 0, over: false };
        let shared = Arc::new(Shared { waiting: Mutex::new(waiting), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let name = "lab-link".to_owned();
        std::thread::Builder::new().name(name).spawn(move || run(&of_thread, act))?;
        Ok(Self(shared))
    }

    /// Has it done at that time; false when too much waits.
    pub(super) fn push(&self, due: Instant, thing: T) -> bool {
        let mut waiting = self.0.waiting();
        if waiting.heap.len() >= CAPACITY {
            return false;
        }
        let number = waiting.pushed;
        waiting.pushed += 1;
        let first = waiting.heap.peek().is_none_or(|Reverse(entry)| due < entry.due);
        waiting.heap.push(Reverse(Entry { due, number, thing }));
        drop(waiting);
        if first {
            self.0.changed.notify_one();
        }
        true
    }
}

impl<T> Drop for Timer<T> {
    fn drop(&mut self) {
        self.0.waiting().over = true;
        self.0.changed.notify_one();
    }
}

fn run<T>(shared: &Shared<T>, act: impl Fn(T)) {
    let mut waiting = shared.waiting();
    while !waiting.over {
        let now = Instant::now();
        match waiting.heap.peek().map(|Reverse(entry)| entry.due) {
            Some(due) if due <= now => {
                let Some(Reverse(entry)) = waiting.heap.pop() else { continue };
                drop(waiting);
                act(entry.thing);
                waiting = shared.waiting();
            }
            Some(due) => {
                let ahead = due.saturating_duration_since(now);
                let pause =
                    if ahead > EARLY { ahead.saturating_sub(EARLY) } else { ahead.min(NAP) };
                let waited = shared.changed.wait_timeout(waiting, pause);
                waiting = waited.expect("no holder of this lock panics").0;
            }
            None => {
                let waited = shared.changed.wait(waiting);
                waiting = waited.expect("no holder of this lock panics");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn things_come_by_their_time_and_then_in_order() {
        let (done, came) = mpsc::channel();
        let timer = Timer::start(move |thing| done.send(thing).unwrap()).unwrap();
        let now = Instant::now();
        for (after, thing) in [(30, 4), (10, 1), (10, 2), (20, 3)] {
            assert!(timer.push(now + Duration::from_millis(after), thing));
        }
        let order: Vec<i32> = came.iter().take(4).collect();
        assert_eq!(order, [1, 2, 3, 4]);
        assert!(now.elapsed() >= Duration::from_millis(30), "the last came too early");
        // Its end ends the thread, which held the sender.
        drop(timer);
        assert!(came.recv().is_err());
    }
}
