//! Repair of lost RTP packets by request (RFC 4585) and retransmission on the same stream.
//!
//! One keyframe every few seconds is hard on repair: after its last packet nothing comes for
//! seconds that would show what is missing. So both sides act by their own timers:
//!
//! - `request`: the receiver asks for what is missing, at once, and again after a round trip;
//! - `report`: and tells at once, not only each second, up to where it has received;
//! - `resend`: the sender keeps what it sent, and sends again what is asked for, not faster than
//!   [`super::rate::SendRate`];
//! - `tail`: and repeats its last packet until it knows that this has arrived, for the loss of the
//!   last packets, or of all, shows in nothing else.
//!
//! These know no input, output or clock. `receiver` and `sender` make interceptors of the `rtc` crate of
//! them; the crate's driver calls them when their timers are due, also while the track is silent. All
//! messages are those of RFC 3550 and RFC 4585, so either side may be another implementation: a
//! receiver drops repeated packets by the replay protection that SRTP asks for (RFC 3711 §3.3.2).
//!
//! `rtx` puts retransmissions on a stream of their own (RFC 4588) towards peers that agree on it, and restores those
//! that come on one; the others repeat the packet as it was. `arrived` says which packets are there already.

mod arrived;
mod receiver;
mod report;
mod request;
mod resend;
mod round_trip;
mod rtx;
mod sender;
mod tail;

use std::time::Duration;

use rtc::interceptor::StreamInfo;

pub(super) use receiver::{RepairReceiver, Repairing};
pub use round_trip::RoundTripHint;
pub(super) use rtx::{Rtx, RtxTypes};
pub(super) use sender::RepairSender;

/// Packets that can be repaired, counted back from the newest: as many as SRTP's replay protection lets
/// come late (`with_srtp_replay_protection_window`). A keyframe of 100 KB has 85.
pub(super) const WINDOW: u16 = 2048;

/// How long a packet is worth repairing.
const WORTH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod tests;

/// Whether the two sides have agreed on NACK for a stream.
fn has_nack(info: &StreamInfo) -> bool {
    info.rtcp_feedback.iter().any(|one| one.typ == "nack" && one.parameter.is_empty())
}
