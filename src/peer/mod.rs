//! The WebRTC peer: connection, video sender and receiver, and control channel. It is independent of signaling.
//!
//! [`Peer`] wraps one `RTCPeerConnection` of the `webrtc` crate and confines that crate's types to this module. It
//! reports what happens on the connection as [`PeerEvent`]s.
//!
//! - [`config`]: the configuration of a peer, and the crate settings derived from it
//! - `runtime`: the crate's driver without its stalls; `driver`: its thread; `watchdog`: detects a driver that hangs
//! - `socket`: the UDP sockets; `guard`: admits datagrams on authenticated paths; `dtls_filter`: filters DTLS records
//! - [`vitals`]: evidence that the connection is alive
//! - [`event`]: the connection's events; [`error`]: its errors; `shared`: state shared by its tasks
//! - [`gathering`]: the exchange with the STUN and TURN servers
//! - `streams`: TURN over TCP and TLS
//! - [`connection`]: offer, answer, candidates, close; `handler`: the crate's callbacks
//! - [`control`]: the data channels
//! - [`packetizer`], `depacketizer` and [`assembler`]: from access units to RTP and back (RFC 6184)
//! - `incoming`: the remote peer's streams; [`video`]: the tasks around them
//! - [`pacing`]: when packets may be sent; [`rate`]: the current send rate; `remb`: a limit reported by the receiver
//! - `remote_candidates`: filters the remote peer's candidates; `media_gate`: limits the sources of media
//! - `allowance`: a token bucket
//! - [`repair`]: requests and retransmissions of lost packets; `sequence`: counters that wrap
//! - [`rtp_observer`]: observes the RTP and RTCP chain
//! - `timestamps`: RTP timestamps of the video track
//! - `relay_wait`: makes relayed pairs wait for direct ones; `early_checks`: holds back checks that precede their
//!   candidate
//! - [`stats`]: getStats with W3C names, gaps filled or omitted; [`frames`] and `reports`: sources of its values

mod allowance;
pub mod assembler;
pub mod config;
pub mod connection;
pub mod control;
mod depacketizer;
mod driver;
mod dtls_filter;
mod early_checks;
pub mod error;
pub mod event;
pub mod frames;
pub mod gathering;
mod guard;
mod handler;
mod incoming;
pub mod local_network;
mod media_gate;
pub mod pacing;
pub mod packetizer;
pub mod rate;
mod relay_wait;
mod remb;
mod remote_candidates;
pub mod repair;
mod reports;
pub mod rtp_observer;
pub(crate) mod runtime;
pub mod sdp;
mod sequence;
mod shared;
mod socket;
pub mod stats;
mod streams;
mod timestamps;
pub mod video;
pub mod vitals;
mod watchdog;

#[cfg(test)]
mod long_life;

pub use config::{IcePolicy, PeerConfig, PeerRole};
pub use connection::Peer;
pub(crate) use driver::abandoned as abandoned_drivers;
pub use error::PeerError;
pub use event::{ConnectionState, PeerEvent, Timings};
pub use gathering::{GatherOutcome, GatherResult, no_relay};
pub use runtime::small_receive_buffer;
pub use vitals::Vitals;
