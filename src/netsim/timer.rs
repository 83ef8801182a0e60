//! A thread that runs actions on time, with an accuracy of tens of microseconds. Tokio's timers have
//! millisecond resolution, which is as much as the delay of a short link.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// On a busy machine, a thread that slept for 25 ms woke up to 2 ms late, but rarely after a sleep of 1 ms.
/// Therefore the thread wakes this long in advance, and sleeps in short intervals until the action is due.
const EARLY: Duration = Duration::from_millis(3);

/// Duration of such an interval.
const NAP: Duration = Duration::from_micros(250);

/// Maximum number of pending actions: 100 ms of 8 Gbit/s in full packets.
const CAPACITY: usize = 65_536;

struct Entry<T> {
    due: Instant,
    /// Breaks ties: actions that are due at the same time run in the order in which they were pushed.
    number: u64,
    action: T,
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

struct PendingActions<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    pushed: u64,
    over: bool,
}

struct Shared<T> {
    waiting: Mutex<PendingActions<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, PendingActions<T>> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

/// The thread. Dropping this ends it and discards pending actions.
pub(super) struct Timer<T>(Arc<Shared<T>>);

impl<T: Send + 'static> Timer<T> {
    /// Starts the thread.
    pub(super) fn start(act: impl Fn(T) + Send + 'static) -> std::io::Result<Self> {
        let waiting = PendingActions { heap: BinaryHeap::new(), pushed: 0, over: false };
        let shared = Arc::new(Shared { waiting: Mutex::new(waiting), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let name = "lab-link".to_owned();
        std::thread::Builder::new().name(name).spawn(move || run(&of_thread, act))?;
        Ok(Self(shared))
    }

    /// Schedules an action; false if too many are pending.
    pub(super) fn push(&self, due: Instant, action: T) -> bool {
        let mut waiting = self.0.waiting();
        if waiting.heap.len() >= CAPACITY {
            return false;
        }
        let number = waiting.pushed;
        waiting.pushed += 1;
        let first = waiting.heap.peek().is_none_or(|Reverse(entry)| due < entry.due);
        waiting.heap.push(Reverse(Entry { due, number, action }));
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
                act(entry.action);
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
    fn actions_run_by_time_then_in_order() {
        let (done, received) = mpsc::channel();
        let timer = Timer::start(move |action| done.send(action).unwrap()).unwrap();
        let now = Instant::now();
        for (after, action) in [(30, 4), (10, 1), (10, 2), (20, 3)] {
            assert!(timer.push(now + Duration::from_millis(after), action));
        }
        let order: Vec<i32> = received.iter().take(4).collect();
        assert_eq!(order, [1, 2, 3, 4]);
        assert!(now.elapsed() >= Duration::from_millis(30), "the last one ran too early");
        // Dropping the timer ends the thread, which held the sender.
        drop(timer);
        assert!(received.recv().is_err());
    }
}
