//! Whether a peer connection is alive, and if not, why: the only place that decides it.
//!
//! "Connected" says that ICE and DTLS came up. It does not say that anything still passes: so signs of life of
//! each layer are judged ([`Vitals`]), and a connection without them is replaced, with a pause that grows when
//! that does not help. Sans-IO: time is in the vitals, or an argument.

use std::time::{Duration, Instant};

use crate::{peer::Vitals, types::Stage};

/// A peer was heard within this time, or it is silent: that of consent checks (RFC 7675 §5.1) in the crate.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(4);

/// A silent peer is gone (RFC 7675 §5.1: consent expires after 30 s).
const GONE_AFTER: Duration = Duration::from_secs(30);

/// DTLS that does not advance for so long never will: the crate retransmits after 1 s and 2 s.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(4);

/// Nothing at all came after DTLS.
const FIRST_SIGN_WITHIN: Duration = Duration::from_secs(10);

/// A data channel that both ends have described opens by then, or it does not open.
const CHANNEL_WITHIN: Duration = Duration::from_secs(10);

/// A control channel that was in use and has closed: the peer may open another one, or say goodbye.
const WITHOUT_CHANNEL: Duration = Duration::from_secs(3);

/// Unanswered pings, one a second, of a peer that answered before. Each is given up by SCTP after 100 ms, so on
/// a poor path many are lost.
const PINGS: (u32, Duration) = (8, Duration::from_secs(10));

/// Keyframes without news of their packets, of a peer that reported before.
const KEYFRAMES: (u32, Duration) = (2, Duration::from_secs(10));

/// Keyframes that the peer announced and of which no packet came.
const ANNOUNCED: (u32, Duration) = (3, Duration::from_secs(10));

/// Pauses before a connection that died young is replaced once more.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// A connection that has lived for so long did not fail for what the ones before it failed for.
const LIVED: Duration = Duration::from_secs(30);

/// What is known of a peer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It is being established.
    SettingUp,
    /// The peer was heard lately.
    Alive,
    /// The peer has not been heard for a while.
    Silent,
    /// It will not recover.
    Dead(Cause),
}

/// Why a peer connection is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// DTLS stands still; the plaintext alert that came, if any: level and description.
    Handshake(Option<(u8, u8)>),
    /// DTLS is established, and nothing came over it.
    NothingCame,
    /// The control channel, which the peer used, is closed.
    ChannelClosed,
    /// The peer answered pings, and no longer does.
    Pings(u32),
    /// The peer reported packets, and reports nothing of the last keyframes.
    Keyframes(u32),
    /// The peer announces keyframes, and no packet of them comes.
    NoVideo(u32),
    /// Nothing was heard of the peer.
    Gone,
}

impl Cause {
    /// Where in the course of a connection it is dead.
    pub(super) fn stage(self) -> Stage {
        match self {
            Self::Handshake(_) => Stage::Dtls,
            Self::NothingCame | Self::ChannelClosed | Self::Pings(_) => Stage::Datachannel,
            Self::Keyframes(_) | Self::NoVideo(_) => Stage::Video,
            Self::Gone => Stage::Ice,
        }
    }

    /// In kebab case, for programs: stable from version to version.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Handshake(_) => "dtls-stalled",
            Self::NothingCame => "nothing-received",
            Self::ChannelClosed => "control-channel-closed",
            Self::Pings(_) => "pings-unanswered",
            Self::Keyframes(_) => "keyframes-unacknowledged",
            Self::NoVideo(_) => "video-missing",
            Self::Gone => "peer-silent",
        }
    }

    /// In a sentence without its end.
    pub(super) fn words(self) -> String {
        let seconds = |(_, time): (u32, Duration)| time.as_secs();
        match self {
            Self::Handshake(alert) => {
                let alert = alert.map_or(String::new(), |(level, description)| {
                    format!(
                        "; an unauthenticated alert came, level {level}, description {description}"
                    )
                });
                format!("DTLS made no progress for {} s{alert}", HANDSHAKE_WITHIN.as_secs())
            }
            Self::NothingCame => {
                format!("nothing was received within {} s after DTLS", FIRST_SIGN_WITHIN.as_secs())
            }
            Self::ChannelClosed => "its control channel was closed".into(),
            Self::Pings(count) => {
                format!("{count} pings in {} s were not answered", seconds(PINGS))
            }
            Self::Keyframes(count) => {
                format!("{count} keyframes were not acknowledged within {} s", seconds(KEYFRAMES))
            }
            Self::NoVideo(count) => format!("no packet came of {count} announced keyframes"),
            Self::Gone => format!("nothing was received for {} s", GONE_AFTER.as_secs()),
        }
    }
}

/// Judges a peer connection.
pub(super) fn judge(vitals: &Vitals) -> Health {
    let now = vitals.now;
    let since = |then: Option<Duration>| then.map(|then| now.saturating_sub(then));
    let Some(dtls) = vitals.dtls else {
        let stalled = since(vitals.ice.max(vitals.handshake).filter(|_| vitals.ice.is_some()));
        return match stalled {
            Some(time) if time >= HANDSHAKE_WITHIN => Health::Dead(Cause::Handshake(vitals.alert)),
            _ => Health::SettingUp,
        };
    };
    if let Some(cause) = unanswered(vitals) {
        return Health::Dead(cause);
    }
    let over_dtls = vitals.media.max(vitals.data).max(vitals.channel);
    if over_dtls.is_none() && now.saturating_sub(dtls) >= FIRST_SIGN_WITHIN {
        return Health::Dead(Cause::NothingCame);
    }
    match now.saturating_sub(vitals.heard().unwrap_or(dtls)) {
        silence if silence >= GONE_AFTER => Health::Dead(Cause::Gone),
        silence if silence >= SILENT_AFTER => Health::Silent,
        _ => Health::Alive,
    }
}

/// Both ends have described a data channel, and it does not open: nothing that goes over it will arrive, whatever
/// becomes of media. A sentence without its end.
pub(super) fn without_channel(vitals: &Vitals) -> Option<String> {
    let over = vitals.now.saturating_sub(vitals.dtls?) >= CHANNEL_WITHIN;
    let missing = vitals.has_data && vitals.channel.is_none() && vitals.data.is_none();
    (over && missing).then(|| {
        let seconds = CHANNEL_WITHIN.as_secs();
        format!(
            "the data channel has not opened within {seconds} s after DTLS: no pings, texts and settings; video goes on"
        )
    })
}

/// What the peer used to answer and does not any more, although it may well be there.
fn unanswered(vitals: &Vitals) -> Option<Cause> {
    let now = vitals.now;
    let closed = vitals.channel_closed.filter(|_| vitals.data.is_some());
    let reopened = closed.is_some_and(|closed| vitals.data > Some(closed));
    if closed.is_some_and(|closed| now.saturating_sub(closed) >= WITHOUT_CHANNEL) && !reopened {
        return Some(Cause::ChannelClosed);
    }
    let over = |waiting: Option<crate::peer::vitals::Unanswered>,
                (count, time): (u32, Duration)| {
        waiting.filter(|w| w.count >= count && now.saturating_sub(w.since) >= time)
    };
    // Without a path nothing can be answered; ICE restarts then.
    let has_path = vitals.check.is_some_and(|check| now.saturating_sub(check) < SILENT_AFTER);
    if !has_path {
        return None;
    }
    // Pings get lost on a poor path where other messages get through.
    let pings = over(vitals.pings, PINGS).filter(|pings| vitals.data <= Some(pings.since));
    pings
        .map(|pings| Cause::Pings(pings.count))
        .or_else(|| over(vitals.keyframes_sent, KEYFRAMES).map(|k| Cause::Keyframes(k.count)))
        .or_else(|| over(vitals.keyframes_announced, ANNOUNCED).map(|k| Cause::NoVideo(k.count)))
}

/// How long to wait before a dead connection is replaced.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    died_young: usize,
    established: Option<Instant>,
}

impl Pauses {
    /// A connection is up.
    pub(super) fn established(&mut self, now: Instant) {
        self.established.get_or_insert(now);
    }

    /// It is dead, or never came up.
    pub(super) fn died(&mut self, now: Instant) -> Duration {
        let lived = self.established.take().map(|since| now.saturating_duration_since(since));
        if lived.is_some_and(|lived| lived >= LIVED) {
            self.died_young = 0;
        }
        let pause = PAUSES[self.died_young.min(PAUSES.len() - 1)];
        self.died_young += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::vitals::Unanswered;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A healthy connection, 100 s old.
    fn healthy() -> Vitals {
        Vitals {
            now: s(100),
            ice: Some(s(1)),
            dtls: Some(s(1)),
            channel: Some(s(1)),
            handshake: Some(s(1)),
            check: Some(s(99)),
            media: Some(s(98)),
            data: Some(s(99)),
            ..Vitals::default()
        }
    }

    #[test]
    fn a_connection_is_silent_before_it_is_gone() {
        assert_eq!(judge(&healthy()), Health::Alive);
        let at = |now| judge(&Vitals { now: s(now), ..healthy() });
        assert_eq!((at(102), at(103), at(128)), (Health::Alive, Health::Silent, Health::Silent));
        assert_eq!(at(129), Health::Dead(Cause::Gone));
        // Checks alone show that the peer is there, whatever else is silent.
        let checked = Vitals { now: s(10_000), check: Some(s(9_999)), ..healthy() };
        assert_eq!(judge(&checked), Health::Alive);
    }

    #[test]
    fn a_handshake_has_to_advance() {
        let at = |now, handshake: Option<u64>| {
            judge(&Vitals {
                now: s(now),
                ice: Some(s(10)),
                handshake: handshake.map(s),
                alert: Some((2, 40)),
                ..Vitals::default()
            })
        };
        assert_eq!(at(13, None), Health::SettingUp);
        assert_eq!(at(14, None), Health::Dead(Cause::Handshake(Some((2, 40)))));
        assert_eq!(at(14, Some(12)), Health::SettingUp);
        assert_eq!(at(16, Some(12)), Health::Dead(Cause::Handshake(Some((2, 40)))));
        let without_ice = Vitals { now: s(1000), ..Vitals::default() };
        assert_eq!(judge(&without_ice), Health::SettingUp, "others limit that");
        let established =
            Vitals { now: s(12), ice: Some(s(1)), dtls: Some(s(2)), ..Vitals::default() };
        assert_eq!(judge(&established), Health::Dead(Cause::NothingCame));
    }

    #[test]
    fn what_is_no_longer_answered_ends_a_connection_that_ice_keeps() {
        let waits = |count, since| Some(Unanswered { count, since: s(since) });
        let quiet = Vitals { data: Some(s(80)), ..healthy() };
        let pings = |count, since| judge(&Vitals { pings: waits(count, since), ..quiet.clone() });
        assert_eq!(pings(8, 90), Health::Dead(Cause::Pings(8)));
        assert_eq!((pings(7, 90), pings(8, 91)), (Health::Alive, Health::Alive));
        let lost = Vitals { pings: waits(20, 80), data: Some(s(99)), ..quiet.clone() };
        assert_eq!(judge(&lost), Health::Alive, "other messages come");
        let outage = Vitals { check: Some(s(80)), ..quiet.clone() };
        let outage = Vitals { pings: waits(20, 80), media: Some(s(80)), ..outage };
        assert_eq!(judge(&outage), Health::Silent, "ICE restarts first");

        let sent =
            |count, since| judge(&Vitals { keyframes_sent: waits(count, since), ..healthy() });
        assert_eq!(sent(2, 90), Health::Dead(Cause::Keyframes(2)));
        assert_eq!((sent(1, 0), sent(2, 91)), (Health::Alive, Health::Alive));
        let announced = Vitals { keyframes_announced: waits(3, 90), ..healthy() };
        assert_eq!(judge(&announced), Health::Dead(Cause::NoVideo(3)));

        let closed = |at| Vitals { channel_closed: Some(s(at)), data: Some(s(90)), ..healthy() };
        assert_eq!(judge(&closed(96)), Health::Dead(Cause::ChannelClosed));
        assert_eq!(judge(&closed(98)), Health::Alive);
        let reopened = Vitals { data: Some(s(97)), ..closed(96) };
        assert_eq!(judge(&reopened), Health::Alive);
        let unused = Vitals { data: None, ..closed(96) };
        assert_eq!(judge(&unused), Health::Alive, "the peer never used it");
    }

    #[test]
    fn a_data_channel_that_does_not_open_is_named() {
        let media_alone = Vitals { channel: None, data: None, has_data: true, ..healthy() };
        let at = |now| without_channel(&Vitals { now: s(now), ..media_alone.clone() });
        assert_eq!(at(10), None);
        assert!(at(11).is_some_and(|words| words.contains("has not opened within 10 s")));
        assert_eq!(judge(&media_alone), Health::Alive, "video goes on");
        let but = |change: fn(&mut Vitals)| {
            let mut vitals = media_alone.clone();
            change(&mut vitals);
            without_channel(&vitals)
        };
        assert_eq!(but(|vitals| vitals.has_data = false), None, "the peer has none");
        assert_eq!(but(|vitals| vitals.channel = Some(Duration::ZERO)), None);
        assert_eq!(but(|vitals| vitals.data = Some(Duration::ZERO)), None, "it opened one itself");
        assert_eq!(but(|vitals| vitals.dtls = None), None);
    }

    #[test]
    fn pauses_grow_while_connections_die_young() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let given: Vec<_> = (0..8).map(|_| pauses.died(now)).collect();
        assert_eq!(given[..6], PAUSES);
        assert_eq!(given[7], PAUSES[5]);
        pauses.established(now);
        assert_eq!(pauses.died(now + s(5)), PAUSES[5]);
        pauses.established(now);
        assert_eq!(pauses.died(now + LIVED), Duration::ZERO);
    }
}
