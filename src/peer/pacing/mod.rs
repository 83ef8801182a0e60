//! Pacing: packets of a keyframe leave one after another, as fast as the way carries them and no faster.
//!
//! A keyframe is a hundred packets at once, and then nothing for seconds. Sent in one burst it overflows
//! the queue of a slow uplink or a browser's receive buffer, and control messages wait behind it. The
//! right rate is found out with every keyframe: packets are numbered, the other side tells when each
//! arrived (transport-wide congestion control,
//! draft-holmer-rmcat-transport-wide-cc-extensions-01), and where they arrive slower than they were sent,
//! the rate of their arrival is that of the way.
//!
//! - [`echo`]: checks of ICE that say how far packets have come, where feedback is late or not negotiated
//! - [`controller`]: which rate to send at now, and what follows from feedback
//! - [`estimate`]: what the arrival times of packets say of the way
//! - [`pacer`]: when the next packet may leave
//! - `sent`: what was sent and when, by its transport-wide number
//! - `feedback` and `arrivals`: the RTCP message read and written
//! - `transport_cc`: the interceptor of the `rtc` crate around them
//!
//! These know no clock but what they are told; `Pacing` is what the sending task shares with the
//! interceptor.

mod arrivals;
pub mod controller;
pub mod echo;
pub mod estimate;
mod feedback;
pub mod pacer;
mod sent;
mod transport_cc;

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use rtc::{
    rtcp::transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack},
    rtp,
};
use tokio::sync::Notify;

use super::rate::SendRate;
use crate::units;
use controller::Controller;
use echo::{Echo, Echoes};
pub(super) use transport_cc::TransportCc;

/// The header extension of transport-wide sequence numbers.
pub(super) const TRANSPORT_CC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// What goes over the wire with an RTP payload, bytes: RTP header and its extension, the tag of SRTP,
/// UDP and IPv4 headers.
pub const WIRE_OVERHEAD: usize = 12 + 8 + 16 + 8 + 20;

/// How fast the packets of a keyframe may leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the way is found to carry them.
    #[default]
    Auto,
    /// As fast as the socket takes them.
    Off,
    /// At this rate, bits a second.
    Rate(u64),
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            rate => units::bit_rate(rate)
                .map(Self::Rate)
                .map_err(|error| format!("{error}; a pace is auto, off or a rate such as 2Mbit")),
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Rate(rate) => write!(f, "{}kbit", *rate as f64 / 1e3),
        }
    }
}

/// What the task that sends and the interceptor that sees feedback share.
pub(super) struct Pacing {
    controller: Mutex<Controller>,
    /// The rate for retransmissions.
    rate: SendRate,
    /// Feedback has changed the rate.
    changed: Notify,
    echoes: Echoes,
}

impl fmt::Debug for Pacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacing").field("controller", &self.controller).finish_non_exhaustive()
    }
}

impl Pacing {
    pub(super) fn new(pace: Pace) -> Arc<Self> {
        let controller = Controller::new(pace, Instant::now());
        let rate = SendRate::new(controller.rate());
        Arc::new(Self {
            controller: Mutex::new(controller),
            rate,
            changed: Notify::new(),
            echoes: Echoes::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().expect("no holder of this lock panics")
    }

    /// The rate in use, for whoever sends on the same way.
    pub(super) fn rate(&self) -> &SendRate {
        &self.rate
    }

    /// What the way was found to carry, bits a second; none when nothing was measured.
    pub(super) fn estimate(&self) -> Option<u64> {
        self.lock().estimate()
    }

    /// An access unit of so many packets is about to leave, perhaps through a relay.
    pub(super) fn begin(&self, now: Instant, packets: usize, relayed: bool) {
        let mut controller = self.lock();
        controller.begin(now, packets, relayed);
        self.rate.set(controller.rate());
    }

    /// Takes a packet with this many bytes of payload, or says when to ask again.
    pub(super) fn poll(&self, now: Instant, payload: usize) -> Option<Instant> {
        self.lock().poll(now, payload + WIRE_OVERHEAD)
    }

    /// Waits until a packet with this many bytes of payload may leave.
    pub(super) async fn wait(&self, payload: usize) {
        loop {
            let Some(until) = self.poll(Instant::now(), payload) else { return };
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// The echoes of the connection, for its sockets.
    pub(super) fn echoes(&self) -> &Echoes {
        &self.echoes
    }

    /// An echo was answered.
    pub(super) fn echoed(&self, now: Instant, echo: Echo) {
        self.change(|controller| controller.echo(now, echo));
    }

    /// The peer asks for packets again.
    fn missing(&self, nack: &TransportLayerNack) {
        let sequences = nack.nacks.iter().flat_map(NackPair::packet_list);
        self.lock().missing(sequences);
    }

    /// A packet of the video leaves. Gives its transport-wide number.
    fn sent(&self, now: Instant, packet: &rtp::Packet) -> u16 {
        let mut controller = self.lock();
        let bytes = packet.payload.len() + WIRE_OVERHEAD;
        let number = controller.sent(now, bytes, packet.header.sequence_number);
        if let Some(wanted) = controller.wants_echo() {
            self.echoes.want(packet.header.ssrc, packet.header.sequence_number, wanted);
        }
        number
    }

    fn change(&self, change: impl FnOnce(&mut Controller) -> bool) {
        let mut controller = self.lock();
        if change(&mut controller) {
            self.rate.set(controller.rate());
            tracing::debug!(carries = controller.estimate(), "pacing: bits a second");
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_a_word_or_a_rate() {
        assert_eq!("auto".parse(), Ok(Pace::Auto));
        assert_eq!("off".parse(), Ok(Pace::Off));
        assert_eq!("2Mbit".parse(), Ok(Pace::Rate(2_000_000)));
        assert_eq!(Pace::Rate(2_000_000).to_string().parse(), Ok(Pace::Rate(2_000_000)));
        assert!("fast".parse::<Pace>().unwrap_err().contains("auto, off or a rate"));
    }
}
