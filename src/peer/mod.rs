//! The WebRTC peer: connection, video sender and receiver, control channel; knows no signaling.
//!
//! [`Peer`] wraps one `RTCPeerConnection` of the `webrtc` crate and keeps that crate's types to this
//! module. What happens on it comes out as [`PeerEvent`]s.
//!
//! - [`config`]: what a peer is made from, and the crate settings that follow
//! - `runtime`: the crate's driver without its stalls; `driver`: on a thread of its own
//! - `socket`: its UDP sockets; `guard`: datagrams of authenticated paths only; `handshake`: DTLS records
//! - [`vitals`]: what shows that the connection is alive
//! - [`event`]: what happens on it, and what can go wrong
//! - [`gathering`]: what passes between it and its STUN and TURN servers
//! - `streams`: TURN over TCP and TLS
//! - [`connection`]: offer, answer, candidates, close; `handler`: the crate's callbacks
//! - [`control`]: the data channels
//! - [`packetizer`], `depacketizer` and [`assembler`]: access unit to RTP and back (RFC 6184)
//! - `incoming`: the streams of the other side; [`video`]: the tasks around them
//! - [`pacing`]: when packets may leave; [`rate`]: how fast
//! - `remote_candidates`: which of the other side's are taken; `media_gate`: which sources of media are
//! - `allowance`: so many at once, and so many a second
//! - [`repair`]: lost packets asked for and sent again; `sequence`: counters that wrap
//! - [`tap`]: what passes through the RTP and RTCP chain
//! - `timestamps`: those of the video track
//! - `relay_wait`: relayed pairs wait for direct ones; `unannounced`: checks that come before their candidate
//! - [`stats`]: getStats with W3C names, gaps filled or left out; [`frames`] and `reports`: what fills them

mod allowance;
pub mod assembler;
pub mod config;
pub mod connection;
pub mod control;
mod depacketizer;
mod driver;
pub mod event;
pub mod frames;
pub mod gathering;
mod guard;
mod handler;
mod handshake;
mod incoming;
mod media_gate;
pub mod pacing;
pub mod packetizer;
pub mod rate;
mod relay_wait;
mod remote_candidates;
pub mod repair;
mod reports;
pub(crate) mod runtime;
pub mod sdp;
mod sequence;
mod socket;
pub mod stats;
mod streams;
pub mod tap;
mod timestamps;
mod unannounced;
pub mod video;
pub mod vitals;

#[cfg(test)]
mod long_life;

pub use config::{IcePolicy, PeerConfig, PeerRole};
pub use connection::Peer;
pub(crate) use driver::abandoned as abandoned_drivers;
pub use event::{ConnectionState, PeerError, PeerEvent, Timings};
pub use gathering::{GatherOutcome, GatherResult, no_relay};
pub use runtime::small_receive_buffer;
pub use sdp::PhoneBitrate;
pub use vitals::Vitals;
