//! Pacing: the packets of a keyframe leave one after another, as fast as the path can carry them and no faster.
//!
//! A keyframe is a burst of a hundred packets, then nothing for seconds. Sent in one burst it overflows the queue of
//! a slow uplink or a browser's receive buffer, and control messages wait behind it. Every keyframe serves to measure
//! the right rate: packets are numbered, the receiver reports when each arrived (transport-wide congestion control,
//! draft-holmer-rmcat-transport-wide-cc-extensions-01), and if they arrive more slowly than they were sent, their
//! arrival rate is the rate of the path.
//!
//! - [`echo`]: ICE checks that show how far packets have come where feedback is late or not negotiated
//! - [`controller`]: the current send rate and how feedback changes it
//! - [`estimate`]: queueing and capacity of the path, from the packets' arrival times
//! - [`pacer`]: when the next packet may leave
//! - `sent`: which packets were sent and when, by transport-wide number
//! - `feedback` and `arrivals`: reading and writing the RTCP message
//! - `transport_cc`: the interceptor that connects these to the `rtc` crate
//!
//! None of these modules reads a clock: `now` is an argument. The sending task and the interceptor share a `Pacing`.

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
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use rtc::{
    rtcp::transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack},
    rtp,
};
use tokio::sync::Notify;

use super::rate::SendRate;
use crate::units::RateSetting;
use controller::Controller;
use echo::{Echo, Echoes};
pub(super) use transport_cc::TransportCc;

/// The header extension of transport-wide sequence numbers.
pub(super) const TRANSPORT_CC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// Bytes on the wire in addition to an RTP payload: RTP header and its extension, SRTP tag, UDP and IPv4 headers.
pub const WIRE_OVERHEAD: usize = 12 + 8 + 16 + 8 + 20;

/// State shared by the sending task and the interceptor that receives feedback.
pub(super) struct Pacing {
    controller: Mutex<Controller>,
    /// The rate that retransmissions use.
    rate: SendRate,
    /// Signaled when feedback changes the rate.
    changed: Notify,
    echoes: Echoes,
}

impl fmt::Debug for Pacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacing").field("controller", &self.controller).finish_non_exhaustive()
    }
}

impl Pacing {
    pub(super) fn new(pace: RateSetting) -> Arc<Self> {
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

    /// The rate in use, shared with everything else that sends on the same path.
    pub(super) fn rate(&self) -> &SendRate {
        &self.rate
    }

    /// The measured capacity of the path, bits per second; none if nothing has been measured.
    pub(super) fn estimate(&self) -> Option<u64> {
        self.lock().estimate()
    }

    /// An access unit of this many packets is about to leave, perhaps through a relay.
    pub(super) fn begin(&self, now: Instant, packets: usize, relayed: bool) {
        let mut controller = self.lock();
        controller.begin(now, packets, relayed);
        self.rate.set(controller.rate());
    }

    /// Lets a packet with this many bytes of payload leave, or returns when to ask again.
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

    /// The connection's echoes, for its sockets.
    pub(super) fn echoes(&self) -> &Echoes {
        &self.echoes
    }

    /// An echo was answered.
    pub(super) fn echoed(&self, now: Instant, echo: Echo) {
        self.change(|controller| controller.echo(now, echo));
    }

    /// The peer requested packets again.
    fn missing(&self, nack: &TransportLayerNack) {
        let sequences = nack.nacks.iter().flat_map(NackPair::packet_list);
        self.lock().missing(sequences);
    }

    /// A video packet is about to leave. Returns its transport-wide number.
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
            tracing::debug!(
                capacity = controller.estimate(),
                "pacing: capacity in bits per second"
            );
            self.changed.notify_one();
        }
    }
}
