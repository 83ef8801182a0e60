//! Repair of lost RTP packets by request (RFC 4585) and retransmission on the same stream.
//!
//! With one keyframe every few seconds, repair is hard: after its last packet, nothing arrives for seconds that
//! would reveal missing packets. So both peers act on their own timers:
//!
//! - `request`: the receiver requests missing packets immediately, and again after a round trip;
//! - `report`: the receiver reports immediately, not only every second, the last packet it received;
//! - `resend`: the sender keeps the packets it sent and retransmits those requested, no faster than
//!   [`super::rate::SendRate`];
//! - `tail_probe`: the sender repeats its last packet until the receiver has reported it, because otherwise the
//!   loss of the last packets, or of all, would go unnoticed.
//!
//! These modules have no input, output or clock. `receiver` and `sender` turn them into interceptors of the `rtc`
//! crate; the crate's driver calls them when their timers are due, even while the track is silent. All messages are
//! those of RFC 3550 and RFC 4585, so either peer may be another implementation: a receiver drops repeated packets
//! because SRTP requires replay protection (RFC 3711 §3.3.2).
//!
//! `rtx` puts retransmissions on a separate stream (RFC 4588) for peers that agree on it, and restores those that
//! arrive on one; for other peers the packet is repeated unchanged. `arrived` records which packets have arrived.

mod arrived;
mod receiver;
mod report;
mod request;
mod resend;
mod round_trip;
mod rtx;
mod sender;
mod tail_probe;

use std::time::Duration;

use rtc::interceptor::StreamInfo;

pub(super) use receiver::{PeerRepairs, RepairReceiver};
pub use round_trip::RttSeed;
pub(super) use rtx::{Rtx, RtxTypes};
pub(super) use sender::RepairSender;

/// Number of packets that can be repaired, counted back from the newest: as many late packets as SRTP's replay
/// protection accepts (`with_srtp_replay_protection_window`). A keyframe of 100 KB has 85.
pub(super) const WINDOW: u16 = 2048;

/// Maximum age of a packet that is still worth repairing.
const WORTH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod tests;

/// Whether both peers have agreed on NACK for a stream.
fn has_nack(info: &StreamInfo) -> bool {
    info.rtcp_feedback.iter().any(|one| one.typ == "nack" && one.parameter.is_empty())
}
