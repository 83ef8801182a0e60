//! Limits the SRTP and SRTCP packets that reach the `rtc` crate to a bounded number of sources.
//!
//! `rtc-srtp` 0.21.1 creates a state with a replay window for each SSRC before it has verified the packet
//! (`context/srtp.rs:30`, `get_srtp_ssrc_state`, and `context/srtcp.rs:31`), and keeps it for the life of the
//! connection: about 500 bytes for each packet with a made-up SSRC. SSRCs are in clear text in both kinds of packets,
//! so the sockets can count them first. Once a source is admitted, its packets no longer count.
//!
//! A peer need not signal its SSRCs, and its RTCP uses SSRCs of its own, so the first sources that arrive are
//! admitted. Signaled sources have a separate allowance, which packets from other sources cannot use up.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use rtc::shared::util::{is_rtcp, match_srtp_or_srtcp};

use super::{allowance::Allowance, dtls_filter};

/// Sources admitted in a burst, and per second after that. A peer has four, for video and its RTCP.
const SOURCES: (u32, f64) = (64, 1.0 / 60.0);

/// The same for sources that the remote description names.
const SIGNALED: (u32, f64) = (64, 1.0 / 10.0);

/// Maximum number of sources remembered from one description.
const MAX_SIGNALED: usize = 16;

/// Number of consecutive RTP packets that cannot be decrypted after which a warning is logged.
const UNREADABLE: u32 = 500;

/// The sources of media on one peer connection.
#[derive(Debug)]
pub(super) struct MediaGate {
    sources: Mutex<Sources>,
    /// RTP packets admitted since the last one that could be decrypted.
    unread: AtomicU32,
}

#[derive(Debug)]
struct Sources {
    admitted: HashSet<u32>,
    signaled: Vec<u32>,
    any: Allowance,
    named: Allowance,
}

impl Default for MediaGate {
    fn default() -> Self {
        let allowance = |(burst, per_second)| Allowance::new(burst, per_second);
        let sources = Sources {
            admitted: HashSet::new(),
            signaled: Vec::new(),
            any: allowance(SOURCES),
            named: allowance(SIGNALED),
        };
        Self { sources: Mutex::new(sources), unread: AtomicU32::new(0) }
    }
}

impl MediaGate {
    /// Sets the SSRCs that the remote description names (`a=ssrc`, RFC 5576), replacing earlier ones.
    pub(super) fn signaled(&self, ssrcs: impl Iterator<Item = u32>) {
        self.sources().signaled = ssrcs.take(MAX_SIGNALED).collect();
    }

    /// Records that an RTP packet could be decrypted.
    pub(super) fn read(&self) {
        self.unread.store(0, Ordering::Relaxed);
    }

    /// Whether a datagram may reach the crate: an SRTP or SRTCP packet from an excess source may not, directly or
    /// through a relay.
    pub(super) fn passes(&self, datagram: &[u8], now: Instant) -> bool {
        let Some(media) =
            dtls_filter::payload(datagram).filter(|payload| match_srtp_or_srtcp(payload))
        else {
            return true;
        };
        let rtcp = is_rtcp(media);
        let admitted = ssrc(media, rtcp).is_some_and(|ssrc| self.sources().admits(ssrc, now));
        if admitted && !rtcp && self.unread.fetch_add(1, Ordering::Relaxed) == UNREADABLE {
            // rtc-srtp 0.21.1 cannot recover the rollover counter after a loss of more than 2^15 packets
            // (`context/mod.rs:45`), nor does its replay window accept sequence numbers that go back (RFC 3711
            // §3.3.1).
            tracing::warn!(
                "the last {UNREADABLE} RTP packets could not be decrypted: they are forged, or more packets were \
                 lost than SRTP can skip; a new connection negotiates new keys"
            );
        }
        admitted
    }

    #[cfg(test)]
    pub(super) fn unread(&self) -> u32 {
        self.unread.load(Ordering::Relaxed)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().expect("no holder of this lock panics")
    }
}

impl Sources {
    fn admits(&mut self, ssrc: u32, now: Instant) -> bool {
        if self.admitted.contains(&ssrc) {
            return true;
        }
        let allowance = if self.signaled.contains(&ssrc) { &mut self.named } else { &mut self.any };
        allowance.take(now) && self.admitted.insert(ssrc)
    }
}

/// The SSRC of a packet's source (RFC 3550 §5.1 and §6.4).
fn ssrc(media: &[u8], rtcp: bool) -> Option<u32> {
    let at = if rtcp { 4 } else { 8 };
    media.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rtp(ssrc: u32) -> Vec<u8> {
        [&[0x80, 102, 0, 1, 0, 0, 0, 1][..], &ssrc.to_be_bytes(), &[7; 20]].concat()
    }

    fn rtcp(ssrc: u32) -> Vec<u8> {
        [&[0x81, 201, 0, 7][..], &ssrc.to_be_bytes(), &[7; 40]].concat()
    }

    /// A million packets from made-up sources within a minute create at most 129 states in the crate.
    #[test]
    fn sources_are_bounded_and_existing_ones_stay() {
        let start = Instant::now();
        let gate = MediaGate::default();
        assert!(gate.passes(&rtp(1), start) && gate.passes(&rtcp(2), start));
        let mut passed = 0;
        for number in 0..1_000_000_u32 {
            let now = start + Duration::from_micros(60 * u64::from(number));
            let made_up = if number % 2 == 0 { rtp(1000 + number) } else { rtcp(1000 + number) };
            passed += u32::from(gate.passes(&made_up, now));
        }
        assert!(passed <= 64, "{passed}");
        let now = start + Duration::from_mins(1);
        assert!(gate.passes(&rtp(1), now) && gate.passes(&rtcp(2), now));
        assert_eq!(gate.sources().admitted.len(), 2 + passed as usize);
        // A newly signaled source; the refilled part of the allowance is used up first.
        let more = (2000..2010).filter(|ssrc| gate.passes(&rtcp(*ssrc), now)).count();
        assert!(more <= 1 && !gate.passes(&rtp(7), now));
        gate.signaled([7].into_iter());
        assert!(gate.passes(&rtp(7), now));
        for ssrc in 2_000_000..2_001_000 {
            gate.signaled(ssrc..ssrc + 1000);
            gate.passes(&rtp(ssrc), now);
        }
        assert!(gate.sources().admitted.len() <= 64 + 64 + 3);
    }

    #[test]
    fn other_datagrams_pass_and_relayed_media_is_inspected() {
        let now = Instant::now();
        let gate = MediaGate::default();
        for ssrc in 0..1000 {
            gate.passes(&rtp(ssrc), now);
        }
        let channel = |data: &[u8]| [&[0x40, 0, 0, data.len() as u8][..], data].concat();
        assert!(!gate.passes(&rtp(5000), now) && !gate.passes(&channel(&rtp(5000)), now));
        assert!(gate.passes(&channel(&rtp(5)), now));
        for other in [&[][..], &[22; 60], &[0, 1, 0, 0], &[0x40, 0, 0, 0]] {
            assert!(gate.passes(other, now), "{other:?}");
        }
        assert!(!gate.passes(&[0x80; 9], now), "too short for an SSRC");
    }
}
