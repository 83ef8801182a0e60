//! Joins access units, in order, with their `keyframe` messages from the control channel.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{media::h264, peer::event::ReceivedAccessUnit, proto::control::KeyframeInfo};

/// How long a keyframe waits for its message.
const INFO_WITHIN: Duration = Duration::from_millis(200);

/// Number of keyframes per connection that wait even though the sender has not sent a message yet: RTP may
/// be faster than the data channel.
const WAIT_ANYWAY: u32 = 2;

/// Maximum number of messages kept for access units that have not arrived.
const MAX_INFOS: usize = 64;

/// The pending access units and messages of one connection.
#[derive(Debug, Default)]
pub(super) struct KeyframeJoiner {
    units: VecDeque<(ReceivedAccessUnit, Instant, bool)>,
    infos: HashMap<u32, KeyframeInfo>,
    info_order: VecDeque<u32>,
    /// The sender announces its keyframes.
    informed: bool,
    /// Number of received keyframes.
    arrived: u32,
    /// The next access unit follows a broken picture.
    after_loss: bool,
}

/// An access unit with its message.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) received: ReceivedAccessUnit,
    /// Its message, if one arrived.
    pub(super) info: Option<KeyframeInfo>,
    /// It follows a broken picture.
    pub(super) after_loss: bool,
}

impl KeyframeJoiner {
    /// A picture was not received completely.
    pub(super) fn broken(&mut self) {
        self.after_loss = true;
    }

    /// Takes an access unit; returns whether it is a keyframe.
    pub(super) fn unit(&mut self, received: ReceivedAccessUnit, now: Instant) -> bool {
        let keyframe = h264::is_keyframe(&received.unit.data);
        self.arrived += u32::from(keyframe);
        let waits = keyframe && (self.informed || self.arrived <= WAIT_ANYWAY);
        let until = if waits { now + INFO_WITHIN } else { now };
        self.units.push_back((received, until, std::mem::take(&mut self.after_loss)));
        keyframe
    }

    /// Takes a message.
    pub(super) fn info(&mut self, info: KeyframeInfo) {
        self.informed = true;
        self.info_order.push_back(info.rtp_timestamp);
        self.infos.insert(info.rtp_timestamp, info);
        if self.info_order.len() > MAX_INFOS
            && let Some(oldest) = self.info_order.pop_front()
        {
            self.infos.remove(&oldest);
        }
    }

    /// When the first access unit has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.units.front().map(|(_, until, _)| *until)
    }

    /// The first access unit if it need not wait any longer; with `all`, in either case.
    pub(super) fn next(&mut self, now: Instant, all: bool) -> Option<Ready> {
        let (received, until, _) = self.units.front()?;
        if !all && now < *until && !self.infos.contains_key(&received.unit.timestamp) {
            return None;
        }
        let (received, _, after_loss) = self.units.pop_front()?;
        let info = self.infos.remove(&received.unit.timestamp);
        Some(Ready { received, info, after_loss })
    }

    /// The connection has ended, and all its access units have been taken.
    pub(super) fn reset(&mut self) {
        *self = Self { after_loss: self.after_loss, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{peer::assembler::WholeAccessUnit, stats::delivery::Delivery};

    /// An IDR slice (H.264 table 7-1), or another slice.
    fn unit(timestamp: u32, keyframe: bool) -> ReceivedAccessUnit {
        let now = std::time::Instant::now();
        let data = [0, 0, 0, 1, if keyframe { 0x65 } else { 0x41 }, 0x88, 0x84].to_vec().into();
        let unit = WholeAccessUnit {
            data,
            timestamp,
            packets: 1,
            retransmitted: 0,
            first_packet: now,
            completed: now,
            delivery: Delivery::default(),
        };
        ReceivedAccessUnit { unit, received_at: SystemTime::now() }
    }

    fn info(rtp_timestamp: u32) -> KeyframeInfo {
        KeyframeInfo {
            seq: 1,
            rtp_timestamp,
            capture_time: 0.0,
            bytes: 7,
            sha256: String::new(),
            width: 16,
            height: 16,
            sent_at: None,
        }
    }

    /// Timestamps of the ready access units, and whether the message of each arrived.
    fn ready(joiner: &mut KeyframeJoiner, now: Instant) -> Vec<(u32, bool)> {
        std::iter::from_fn(|| joiner.next(now, false))
            .map(|ready| (ready.received.unit.timestamp, ready.info.is_some()))
            .collect()
    }

    #[test]
    fn keyframes_wait_for_their_message_and_delay_the_following_pictures() {
        let (mut joiner, now) = (KeyframeJoiner::default(), Instant::now());
        assert!(joiner.unit(unit(1, true), now));
        assert!(!joiner.unit(unit(2, false), now));
        assert_eq!(ready(&mut joiner, now), []);
        assert_eq!(joiner.due(), Some(now + INFO_WITHIN));
        joiner.info(info(1));
        assert_eq!(ready(&mut joiner, now), [(1, true), (2, false)]);
        // The message arrives first.
        joiner.info(info(3));
        joiner.unit(unit(3, true), now);
        assert_eq!(ready(&mut joiner, now), [(3, true)]);
        // The message is lost.
        joiner.unit(unit(4, true), now);
        assert_eq!(ready(&mut joiner, now), []);
        assert_eq!(ready(&mut joiner, now + INFO_WITHIN), [(4, false)]);
    }

    #[test]
    fn a_sender_without_messages_soon_causes_no_delay() {
        let (mut joiner, now) = (KeyframeJoiner::default(), Instant::now());
        for timestamp in 1..=WAIT_ANYWAY {
            joiner.unit(unit(timestamp, true), now);
            assert_eq!(ready(&mut joiner, now), []);
            assert_eq!(ready(&mut joiner, now + INFO_WITHIN), [(timestamp, false)]);
        }
        joiner.unit(unit(100, true), now);
        assert_eq!(ready(&mut joiner, now), [(100, false)]);
        joiner.reset();
        joiner.unit(unit(101, true), now);
        assert_eq!(ready(&mut joiner, now), []);
        assert!(joiner.next(now, true).is_some(), "at the end everything is handed over");
    }

    #[test]
    fn messages_of_keyframes_that_never_arrive_are_discarded() {
        let mut joiner = KeyframeJoiner::default();
        for timestamp in 0..1000 {
            joiner.info(info(timestamp));
        }
        assert_eq!((joiner.infos.len(), joiner.info_order.len()), (MAX_INFOS, MAX_INFOS));
    }

    #[test]
    fn only_the_next_access_unit_follows_a_loss() {
        let (mut joiner, now) = (KeyframeJoiner::default(), Instant::now());
        joiner.broken();
        joiner.unit(unit(1, false), now);
        joiner.unit(unit(2, false), now);
        let after: Vec<_> = std::iter::from_fn(|| joiner.next(now, false)).collect();
        assert_eq!(after.iter().map(|one| one.after_loss).collect::<Vec<_>>(), [true, false]);
    }
}
