//! From the times at which keyframes were sent and came: what each event did to them. No input or
//! output.

use std::{collections::HashSet, time::Duration};

use super::{event::Event, schema::Outage};
use crate::types::ConnectionType;

/// All keyframes of a run; times are from the start of the time line.
#[derive(Debug, Clone, Default)]
pub struct Keyframes {
    /// When each left the sender, and its SHA-256.
    sent: Vec<(Duration, String)>,
    /// How the sender said it was connected, with each it sent.
    sent_via: Vec<(Duration, String)>,
    /// When each came, in order.
    came: Vec<Arrival>,
    /// The SHA-256 of those that came.
    known: HashSet<String>,
}

#[derive(Debug, Clone)]
struct Arrival {
    at: Duration,
    via: Option<String>,
}

impl Keyframes {
    /// One was sent, over a connection of this kind as its sender sees it.
    pub fn sent(&mut self, at: Duration, sha256: &str, via: Option<&str>) {
        self.sent.push((at, sha256.to_owned()));
        self.sent_via.extend(via.map(|via| (at, via.to_owned())));
    }

    /// One came, over a connection of this kind.
    pub fn came(&mut self, at: Duration, sha256: &str, via: Option<&str>) {
        self.came.push(Arrival { at, via: via.map(str::to_owned) });
        self.known.insert(sha256.to_owned());
    }

    /// How many were sent from one time to another, and how many of these never came.
    #[must_use]
    pub fn count(&self, from: Duration, to: Duration) -> (u64, u64) {
        let span = self.sent.iter().filter(|(at, _)| (from..to).contains(at));
        let lost = span.clone().filter(|(_, sha256)| !self.known.contains(sha256));
        (span.count() as u64, lost.count() as u64)
    }

    /// The longest time between two keyframes of which some is in the span: when the next one was due,
    /// and when it came, if ever.
    fn gap(
        &self,
        from: Duration,
        to: Duration,
        interval: Duration,
    ) -> Option<(Duration, Option<Duration>)> {
        let next = self.came.iter().skip(1).map(|one| Some(one.at)).chain([None]);
        let gaps = self.came.iter().map(|one| one.at + interval).zip(next);
        let touching = gaps.filter(|(due, came)| *due < to && came.is_none_or(|came| came > from));
        touching.max_by_key(|(due, came)| came.unwrap_or(Duration::MAX).saturating_sub(*due))
    }

    fn via(&self, until: Duration) -> Option<String> {
        let theirs = self.came.iter().rfind(|one| one.at < until)?.via.clone()?;
        let ours = self.sent_via.iter().rfind(|(at, _)| *at < until).map(|(_, via)| via);
        // Each knows the transport to its own relay only.
        let both = theirs.parse::<ConnectionType>().ok().zip(ours.and_then(|via| via.parse().ok()));
        Some(both.map_or(theirs, |(theirs, ours)| theirs.with(ours).to_string()))
    }
}

/// A row an event. `interval` is the time between keyframes, `within` what is asked for where the event
/// says nothing, `end` the end of the run.
#[must_use]
pub fn outages(
    events: &[Event],
    keyframes: &Keyframes,
    interval: Duration,
    within: Duration,
    end: Duration,
) -> Vec<Outage> {
    let spans = events.iter().enumerate().map(|(index, event)| {
        let next = events.get(index + 1).map_or(end, |next| next.at);
        (event, next)
    });
    spans
        .map(|(event, next)| {
            let gap = keyframes.gap(event.at, next, interval);
            // All of a short span may lie before the next one is due.
            let (due, resumed) = gap.unwrap_or_else(|| match keyframes.came.last() {
                Some(last) => (last.at + interval, Some(last.at + interval)),
                None => (Duration::ZERO, None),
            });
            // At the end of the run the next one may not have been due for long.
            let back = resumed.is_some() || end < due + interval;
            let resumed = resumed.unwrap_or(end);
            let recovery = resumed.saturating_sub(due.max(event.end()));
            let within = event.within.unwrap_or(within);
            let (sent, lost) = keyframes.count(event.at, next);
            Outage {
                at_s: event.at.as_secs_f64(),
                event: event.text.clone(),
                until_s: event.end().as_secs_f64(),
                outage_s: rounded(resumed.saturating_sub(due)),
                recovery_s: rounded(recovery),
                within_s: within.as_secs_f64(),
                back,
                sent,
                lost,
                via: keyframes.via(next),
                agree: back && recovery <= within,
            }
        })
        .collect()
}

/// To a millisecond.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);
    const WITHIN: Duration = Duration::from_secs(2);

    fn rows(lines: &[&str], times: &[u64], lost: &[u64], end: u64) -> Vec<Outage> {
        let events: Vec<Event> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let mut keyframes = Keyframes::default();
        let ms = Duration::from_millis;
        for time in times {
            keyframes.sent(ms(*time), &time.to_string(), None);
            keyframes.came(ms(*time) + ms(20), &time.to_string(), Some("host"));
        }
        for time in lost {
            keyframes.sent(ms(*time), &time.to_string(), None);
        }
        outages(&events, &keyframes, INTERVAL, WITHIN, ms(end))
    }

    fn every(from: u64, to: u64) -> Vec<u64> {
        (from..to).step_by(500).collect()
    }

    #[test]
    fn nothing_stopped() {
        let [row] = &rows(&["at 2s: kill signaling"], &every(0, 5000), &[], 5000)[..] else {
            panic!()
        };
        assert_eq!((row.outage_s, row.recovery_s, row.sent, row.lost), (0.0, 0.0, 6, 0));
        assert!(row.agree && row.back);
        assert_eq!(row.via.as_deref(), Some("host"));
    }

    #[test]
    fn an_outage_ends_with_the_next_keyframe() {
        let times = [every(0, 2100), every(4000, 9000)].concat();
        let [row] = &rows(&["at 2.1s: nat a -> sym"], &times, &[], 9000)[..] else { panic!() };
        // The last one came at 2.02 s, the next one was due at 2.52 s and came at 4.02 s.
        assert_eq!((row.outage_s, row.recovery_s, row.agree), (1.5, 1.5, true));
    }

    #[test]
    fn recovery_begins_when_the_trouble_is_over() {
        let times = [every(0, 2000), every(6000, 9000)].concat();
        let [row] = &rows(&["at 2s: cut for 3s"], &times, &[2500, 3000], 9000)[..] else {
            panic!()
        };
        assert_eq!((row.outage_s, row.recovery_s), (4.0, 1.02));
        assert_eq!((row.sent, row.lost, row.agree), (8, 2, true));
    }

    #[test]
    fn an_outage_is_of_the_event_before_it() {
        let times = [every(0, 4100), every(9000, 12000)].concat();
        let lines = ["at 1s: restart signaling", "at 4.2s: nat b -> sym"];
        let [first, second] = &rows(&lines, &times, &[], 12000)[..] else { panic!() };
        assert_eq!((first.outage_s, first.agree), (0.0, true), "none was due before the second");
        assert_eq!((second.outage_s, second.agree), (4.5, false));
        let lines = ["at 1s: restart signaling", "at 6s: nat b -> sym"];
        let [first, second] = &rows(&lines, &times, &[], 12000)[..] else { panic!() };
        assert_eq!((first.outage_s, second.outage_s), (4.5, 4.5), "it reaches into the next span");
    }

    #[test]
    fn what_never_comes_back_says_so() {
        let [row] = &rows(&["at 2s: kill b"], &every(0, 2000), &[], 6000)[..] else { panic!() };
        assert!(!row.back && !row.agree, "{row:?}");
        assert!((3.9..4.0).contains(&row.outage_s), "{row:?}");
        let [row] = &rows(&["at 2s: address b"], &[], &[], 6000)[..] else { panic!() };
        assert!(!row.back && !row.agree, "{row:?}");
    }
}
