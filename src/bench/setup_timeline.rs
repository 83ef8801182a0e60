//! When each step of a setup was reached, and the stage durations derived from it.
//!
//! Stages follow each other without gap or overlap from the start to the open data channel, whichever peer offers; a
//! stage that does not apply (no name to resolve, no TLS) is omitted, and its time counts as `signaling`.

use std::time::{Duration, Instant};

use crate::{
    peer::Timings,
    report::bench::schema::{FirstPicture, Setup},
    signaling::client::DialTimings,
};

/// When each step was reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetupTimeline {
    /// Start of the setup.
    pub(super) start: Instant,
    /// When the room was joined, and the durations of the steps leading to it.
    pub(super) joined: Option<(Instant, DialTimings)>,
    /// When the remote description was received.
    pub(super) described: Option<Instant>,
    /// When the peer connection was created, and its progress from then on.
    pub(super) peer: Option<(Instant, Timings)>,
    /// When the first keyframe was complete at the receiver.
    pub(super) first_keyframe: Option<Instant>,
}

impl SetupTimeline {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, joined: None, described: None, peer: None, first_keyframe: None }
    }

    /// When the data channel was open.
    pub(super) fn open(&self) -> Option<Instant> {
        self.at(|timings| timings.data_channel)
    }

    fn at(&self, step: impl Fn(&Timings) -> Option<Duration>) -> Option<Instant> {
        let (built, timings) = self.peer.as_ref()?;
        Some(*built + step(timings)?)
    }

    /// When the room was joined. The peer connection is created at that time, possibly slightly before the join is
    /// reported.
    fn in_the_room(&self) -> Option<Instant> {
        let built = self.peer.map(|(built, _)| built);
        self.joined.map(|(at, _)| built.map_or(at, |built| built.min(at)))
    }

    /// The time to the first picture, ms.
    pub(super) fn first_picture(&self) -> FirstPicture<Option<f64>> {
        FirstPicture {
            from_start: span(Some(self.start), self.first_keyframe).map(ms),
            from_join: span(self.in_the_room(), self.first_keyframe).map(ms),
        }
    }

    /// The duration of each stage, ms.
    pub(super) fn setup(&self) -> Setup<Option<f64>> {
        let dial = self.joined.map(|(_, timings)| timings);
        let built = self.peer.map(|(built, _)| built);
        let joined = self.in_the_room();
        let gathered = self.at(|timings| timings.gathering);
        let gathering = self.peer.and_then(|(_, timings)| timings.gathering);
        // The offerer gathers while it waits for the answer, the answerer after it has received the offer; time
        // spent on both concurrently counts as gathering.
        let both = span(built, gathered.min(self.described)).unwrap_or_default();
        let room = span(joined, self.described).map(|room| room.saturating_sub(both));
        let ready = gathered.max(self.described).filter(|_| gathered.is_some());
        let ice = self.at(|timings| timings.ice);
        let dtls = self.at(|timings| timings.dtls);
        let open = self.open();
        let stages = Setup {
            token: dial.and_then(|dial| dial.token),
            dns: dial.map(|dial| dial.dns),
            tls: dial.and_then(|dial| dial.tls),
            signaling: span(Some(self.start), joined).zip(dial).map(|(all, dial)| {
                all.saturating_sub(
                    dial.token.unwrap_or_default() + dial.dns + dial.tls.unwrap_or_default(),
                )
            }),
            room,
            gathering,
            ice: span(ready, ice),
            dtls: span(ice, dtls),
            data_channel: span(dtls, open),
            first_keyframe: span(open, self.first_keyframe),
            total: span(Some(self.start), open),
        };
        stages.map(|time| time.map(ms))
    }
}

fn span(from: Option<Instant>, to: Option<Instant>) -> Option<Duration> {
    Some(to?.saturating_duration_since(from?))
}

/// A duration as written to a result: ms, to the microsecond.
pub(super) fn ms(time: Duration) -> f64 {
    micros(time.as_secs_f64() * 1e3)
}

/// Milliseconds, to the microsecond.
pub(super) fn micros(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn timeline(start: Instant, built: u64, described: u64) -> SetupTimeline {
        let step = |ms| Some(Duration::from_millis(ms));
        let dial = DialTimings {
            token: step(20),
            dns: Duration::from_millis(3),
            tcp: Duration::from_millis(5),
            tls: step(10),
            upgrade: Duration::from_millis(2),
        };
        SetupTimeline {
            joined: Some((at(start, 42), dial)),
            described: Some(at(start, described)),
            peer: Some((
                at(start, built),
                Timings {
                    gathering: step(4),
                    ice: step(30),
                    dtls: step(40),
                    data_channel: step(50),
                },
            )),
            first_keyframe: Some(at(start, 160)),
            ..SetupTimeline::new(start)
        }
    }

    fn sum(setup: &Setup<Option<f64>>) -> f64 {
        let stages = setup.stages();
        let parts = stages.iter().filter(|(name, _)| !["firstKeyframe", "total"].contains(name));
        parts.filter_map(|(_, value)| **value).sum()
    }

    #[test]
    fn stages_add_up_for_the_offerer() {
        let start = Instant::now();
        // Built at 42, gathered at 46, answered before that.
        let early = timeline(start, 42, 44).setup();
        assert_eq!((early.room, early.gathering, early.ice), (Some(0.0), Some(4.0), Some(26.0)));
        assert!((sum(&early) - early.total.unwrap()).abs() < 1e-6);
        // Built at 42, gathered at 46, answered at 60.
        let setup = timeline(start, 42, 60).setup();
        assert_eq!(setup.signaling, Some(9.0));
        assert_eq!((setup.room, setup.gathering, setup.ice), (Some(14.0), Some(4.0), Some(12.0)));
        assert_eq!((setup.dtls, setup.data_channel), (Some(10.0), Some(10.0)));
        assert_eq!((setup.total, setup.first_keyframe), (Some(92.0), Some(68.0)));
        assert!((sum(&setup) - 92.0).abs() < 1e-6);
        let first = timeline(start, 42, 60).first_picture();
        assert_eq!((first.from_start, first.from_join), (Some(160.0), Some(118.0)));
    }

    #[test]
    fn stages_add_up_for_the_answerer() {
        let start = Instant::now();
        // The offer arrived at 60, and the peer was created for it.
        let setup = timeline(start, 60, 60).setup();
        assert_eq!((setup.room, setup.gathering, setup.ice), (Some(18.0), Some(4.0), Some(26.0)));
        assert!((sum(&setup) - setup.total.unwrap()).abs() < 1e-6);
    }

    #[test]
    fn stages_not_reached_are_omitted() {
        let setup = SetupTimeline::new(Instant::now()).setup();
        assert!(setup.stages().iter().all(|(_, value)| value.is_none()));
        let first = SetupTimeline::new(Instant::now()).first_picture();
        assert_eq!(first, FirstPicture::default());
    }
}
