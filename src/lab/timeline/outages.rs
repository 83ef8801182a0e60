//! Derives the effect of each event from the times keyframes were sent and received. No I/O.

use std::{collections::HashSet, time::Duration};

use super::{event::TimelineEvent, schema::Outage};
use crate::types::ConnectionType;

/// All keyframes of a run; times are from the start of the timeline.
#[derive(Debug, Clone, Default)]
pub struct KeyframeLog {
    /// When each was sent, and its SHA-256.
    sent: Vec<(Duration, String)>,
    /// The connection type its sender reported for each.
    sent_via: Vec<(Duration, String)>,
    /// Arrivals, in order.
    received: Vec<Arrival>,
    /// SHA-256 of the received keyframes.
    known: HashSet<String>,
}

#[derive(Debug, Clone)]
struct Arrival {
    at: Duration,
    via: Option<String>,
}

impl KeyframeLog {
    /// Records a sent keyframe and the connection type its sender reported.
    pub fn sent(&mut self, at: Duration, sha256: &str, via: Option<&str>) {
        self.sent.push((at, sha256.to_owned()));
        self.sent_via.extend(via.map(|via| (at, via.to_owned())));
    }

    /// Records a received keyframe and its connection type.
    pub fn received(&mut self, at: Duration, sha256: &str, via: Option<&str>) {
        self.received.push(Arrival { at, via: via.map(str::to_owned) });
        self.known.insert(sha256.to_owned());
    }

    /// Number of keyframes sent in a span, and how many of them were never received.
    #[must_use]
    pub fn count(&self, from: Duration, to: Duration) -> (u64, u64) {
        let span = self.sent.iter().filter(|(at, _)| (from..to).contains(at));
        let lost = span.clone().filter(|(_, sha256)| !self.known.contains(sha256));
        (span.count() as u64, lost.count() as u64)
    }

    /// The longest gap between two keyframes that overlaps the span: when the next keyframe was due, and
    /// when it arrived, if it did.
    fn gap(
        &self,
        from: Duration,
        to: Duration,
        interval: Duration,
    ) -> Option<(Duration, Option<Duration>)> {
        let next = self.received.iter().skip(1).map(|one| Some(one.at)).chain([None]);
        let gaps = self.received.iter().map(|one| one.at + interval).zip(next);
        let touching =
            gaps.filter(|(due, arrived)| *due < to && arrived.is_none_or(|arrived| arrived > from));
        touching.max_by_key(|(due, arrived)| arrived.unwrap_or(Duration::MAX).saturating_sub(*due))
    }

    fn via(&self, until: Duration) -> Option<String> {
        let theirs = self.received.iter().rfind(|one| one.at < until)?.via.clone()?;
        let ours = self.sent_via.iter().rfind(|(at, _)| *at < until).map(|(_, via)| via);
        // Each peer knows only the transport to its own relay.
        let both = theirs.parse::<ConnectionType>().ok().zip(ours.and_then(|via| via.parse().ok()));
        Some(both.map_or(theirs, |(theirs, ours)| theirs.with(ours).to_string()))
    }
}

/// Returns one row per event. `interval` is the time between keyframes, `within` the default recovery time,
/// and `end` the end of the run.
#[must_use]
pub fn outages(
    events: &[TimelineEvent],
    keyframes: &KeyframeLog,
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
            // A short span may end before the next keyframe is due.
            let (due, resumed) = gap.unwrap_or_else(|| match keyframes.received.last() {
                Some(last) => (last.at + interval, Some(last.at + interval)),
                None => (Duration::ZERO, None),
            });
            // At the end of the run the next keyframe may only just be due.
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

/// Rounds to a millisecond.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);
    const WITHIN: Duration = Duration::from_secs(2);

    fn rows(lines: &[&str], times: &[u64], lost: &[u64], end: u64) -> Vec<Outage> {
        let events: Vec<TimelineEvent> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let mut keyframes = KeyframeLog::default();
        let ms = Duration::from_millis;
        for time in times {
            keyframes.sent(ms(*time), &time.to_string(), None);
            keyframes.received(ms(*time) + ms(20), &time.to_string(), Some("host"));
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
    fn an_event_without_an_outage() {
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
        // The last one arrived at 2.02 s; the next one was due at 2.52 s and arrived at 4.02 s.
        assert_eq!((row.outage_s, row.recovery_s, row.agree), (1.5, 1.5, true));
    }

    #[test]
    fn recovery_starts_when_the_event_is_over() {
        let times = [every(0, 2000), every(6000, 9000)].concat();
        let [row] = &rows(&["at 2s: cut for 3s"], &times, &[2500, 3000], 9000)[..] else {
            panic!()
        };
        assert_eq!((row.outage_s, row.recovery_s), (4.0, 1.02));
        assert_eq!((row.sent, row.lost, row.agree), (8, 2, true));
    }

    #[test]
    fn an_outage_belongs_to_the_event_before_it() {
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
    fn an_outage_without_recovery_is_marked() {
        let [row] = &rows(&["at 2s: kill b"], &every(0, 2000), &[], 6000)[..] else { panic!() };
        assert!(!row.back && !row.agree, "{row:?}");
        assert!((3.9..4.0).contains(&row.outage_s), "{row:?}");
        let [row] = &rows(&["at 2s: address b"], &[], &[], 6000)[..] else { panic!() };
        assert!(!row.back && !row.agree, "{row:?}");
    }
}
