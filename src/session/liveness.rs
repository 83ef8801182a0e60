//! Decides whether a peer connection is alive, and if not, why. No other module makes this decision.
//!
//! "Connected" means that ICE and DTLS were established. It does not mean that anything still gets through, so the
//! signs of life of each layer are judged ([`Vitals`]). A connection without them is replaced, after a pause that
//! grows while replacing does not help. Sans-IO: time is in the vitals, or an argument.

use std::time::{Duration, Instant};

use crate::{peer::Vitals, types::Stage};

/// A peer that has not been heard from for this time is silent. It is the crate's interval of consent checks (RFC
/// 7675 §5.1).
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(4);

/// A peer that is silent for this time is gone (RFC 7675 §5.1: consent expires after 30 s).
const GONE_AFTER: Duration = Duration::from_secs(30);

/// A DTLS handshake without progress for this time is stuck: the crate retransmits after 1 s and 2 s.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(4);

/// Maximum time without any traffic after DTLS.
const FIRST_SIGN_WITHIN: Duration = Duration::from_secs(10);

/// A data channel that both peers have negotiated opens within this time, or never.
const CHANNEL_WITHIN: Duration = Duration::from_secs(10);

/// Grace time after the control channel in use has closed: the peer may open another one, or say goodbye.
const WITHOUT_CHANNEL: Duration = Duration::from_secs(3);

/// Maximum number of unanswered pings, one per second, and the time they cover, for a peer that answered before.
/// SCTP abandons each ping after 100 ms, so many are lost on a poor path.
const PINGS: (u32, Duration) = (8, Duration::from_secs(10));

/// Maximum number of unacknowledged keyframes and the time they cover, for a peer that sent reports before.
const KEYFRAMES: (u32, Duration) = (2, Duration::from_secs(10));

/// Maximum number of announced keyframes without any packet, and the time they cover.
const ANNOUNCED: (u32, Duration) = (3, Duration::from_secs(10));

/// Pauses before a short-lived connection is replaced again.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// A connection that lasted this long is assumed not to have failed for the same reason as the previous ones.
const LIVED: Duration = Duration::from_secs(30);

/// Health of a peer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It is being established.
    SettingUp,
    /// The peer was heard recently.
    Alive,
    /// The peer has not been heard for [`SILENT_AFTER`].
    Silent,
    /// It will not recover.
    Dead(Cause),
}

/// Why a peer connection is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// DTLS makes no progress; carries level and description of a plaintext alert, if one was received.
    Handshake(Option<(u8, u8)>),
    /// DTLS is established, but nothing was received over it.
    NothingReceived,
    /// The control channel that the peer used is closed.
    ChannelClosed,
    /// The peer no longer answers pings.
    Pings(u32),
    /// The peer no longer acknowledges keyframes.
    Keyframes(u32),
    /// The peer announces keyframes, but no packet of them arrives.
    NoVideo(u32),
    /// The peer has been silent for [`GONE_AFTER`].
    Gone,
}

impl Cause {
    /// Stage of the connection that failed.
    pub(super) fn stage(self) -> Stage {
        match self {
            Self::Handshake(_) => Stage::Dtls,
            Self::NothingReceived | Self::ChannelClosed | Self::Pings(_) => Stage::Datachannel,
            Self::Keyframes(_) | Self::NoVideo(_) => Stage::Video,
            Self::Gone => Stage::Ice,
        }
    }

    /// Error code in kebab case, stable across versions.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Handshake(_) => "dtls-stalled",
            Self::NothingReceived => "nothing-received",
            Self::ChannelClosed => "control-channel-closed",
            Self::Pings(_) => "pings-unanswered",
            Self::Keyframes(_) => "keyframes-unacknowledged",
            Self::NoVideo(_) => "video-missing",
            Self::Gone => "peer-silent",
        }
    }

    /// Human-readable cause, without a full stop.
    pub(super) fn describe(self) -> String {
        let seconds = |(_, time): (u32, Duration)| time.as_secs();
        match self {
            Self::Handshake(alert) => {
                let alert = alert.map_or(String::new(), |(level, description)| {
                    format!(
                        "; received an unauthenticated alert, level {level}, description {description}"
                    )
                });
                format!("DTLS made no progress for {} s{alert}", HANDSHAKE_WITHIN.as_secs())
            }
            Self::NothingReceived => {
                format!("nothing was received within {} s after DTLS", FIRST_SIGN_WITHIN.as_secs())
            }
            Self::ChannelClosed => "its control channel was closed".into(),
            Self::Pings(count) => {
                format!("{count} pings in {} s were not answered", seconds(PINGS))
            }
            Self::Keyframes(count) => {
                format!("{count} keyframes were not acknowledged within {} s", seconds(KEYFRAMES))
            }
            Self::NoVideo(count) => {
                format!("no packet of {count} announced keyframes was received")
            }
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
        return Health::Dead(Cause::NothingReceived);
    }
    match now.saturating_sub(vitals.last_sign_of_life().unwrap_or(dtls)) {
        silence if silence >= GONE_AFTER => Health::Dead(Cause::Gone),
        silence if silence >= SILENT_AFTER => Health::Silent,
        _ => Health::Alive,
    }
}

/// Checks for a data channel that both peers have negotiated but that does not open: no message will arrive, whether
/// or not media does. Returns a human-readable message without a full stop.
pub(super) fn without_channel(vitals: &Vitals) -> Option<String> {
    let over = vitals.now.saturating_sub(vitals.dtls?) >= CHANNEL_WITHIN;
    let missing = vitals.has_data && vitals.channel.is_none() && vitals.data.is_none();
    (over && missing).then(|| {
        let seconds = CHANNEL_WITHIN.as_secs();
        format!(
            "the data channel has not opened within {seconds} s after DTLS: pings, text messages and \
             settings are unavailable; video continues"
        )
    })
}

/// Finds messages that the peer answered before and no longer answers, although it may still be reachable.
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
    // Without a path nothing can be answered; in that case ICE restarts.
    let has_path = vitals.check.is_some_and(|check| now.saturating_sub(check) < SILENT_AFTER);
    if !has_path {
        return None;
    }
    // Pings get lost on a poor path on which other messages get through.
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
    /// A connection is established.
    pub(super) fn established(&mut self, now: Instant) {
        self.established.get_or_insert(now);
    }

    /// It is dead, or was never established; the pause before the next attempt.
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
        // Checks alone show that the peer is alive, even if everything else is silent.
        let checked = Vitals { now: s(10_000), check: Some(s(9_999)), ..healthy() };
        assert_eq!(judge(&checked), Health::Alive);
    }

    #[test]
    fn a_handshake_must_make_progress() {
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
        assert_eq!(judge(&without_ice), Health::SettingUp, "ICE has its own timeout");
        let established =
            Vitals { now: s(12), ice: Some(s(1)), dtls: Some(s(2)), ..Vitals::default() };
        assert_eq!(judge(&established), Health::Dead(Cause::NothingReceived));
    }

    #[test]
    fn missing_answers_end_a_connection_that_ice_keeps_alive() {
        let waits = |count, since| Some(Unanswered { count, since: s(since) });
        let quiet = Vitals { data: Some(s(80)), ..healthy() };
        let pings = |count, since| judge(&Vitals { pings: waits(count, since), ..quiet.clone() });
        assert_eq!(pings(8, 90), Health::Dead(Cause::Pings(8)));
        assert_eq!((pings(7, 90), pings(8, 91)), (Health::Alive, Health::Alive));
        let lost = Vitals { pings: waits(20, 80), data: Some(s(99)), ..quiet.clone() };
        assert_eq!(judge(&lost), Health::Alive, "other messages arrive");
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
    fn a_data_channel_that_does_not_open_is_reported() {
        let media_alone = Vitals { channel: None, data: None, has_data: true, ..healthy() };
        let at = |now| without_channel(&Vitals { now: s(now), ..media_alone.clone() });
        assert_eq!(at(10), None);
        assert!(at(11).is_some_and(|words| words.contains("has not opened within 10 s")));
        assert_eq!(judge(&media_alone), Health::Alive, "video continues");
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
    fn pauses_grow_while_connections_are_short_lived() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let pauses_taken: Vec<_> = (0..8).map(|_| pauses.died(now)).collect();
        assert_eq!(pauses_taken[..6], PAUSES);
        assert_eq!(pauses_taken[7], PAUSES[5]);
        pauses.established(now);
        assert_eq!(pauses.died(now + s(5)), PAUSES[5]);
        pauses.established(now);
        assert_eq!(pauses.died(now + LIVED), Duration::ZERO);
    }
}
