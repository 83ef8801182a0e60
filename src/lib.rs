//! `orion-peer`: a headless WebRTC peer and test harness for the Orion pipeline, one H.264 keyframe
//! every few seconds from a phone to a Mac.
//!
//! # Layout
//!
//! Modules stand on floors and import only from lower ones (`tests/it/layering.rs` checks it):
//!
//! | floor | modules |
//! |---|---|
//! | 0, vocabulary | [`types`] · [`stats`] histograms, intervals, differences |
//! | 1, each alone | [`proto`] every wire message · [`media`] source, frame, encoder, access unit, decoder, sink · [`stun`] messages of STUN and TURN, over UDP, TCP and TLS |
//! | 2 | [`auth`] tokens and TURN credentials · [`pairs`] the `device_pairs` store · [`peer`] the WebRTC peer |
//! | 3 | [`signaling`] client, room, relay · [`turn`] embedded STUN and TURN |
//! | 4 | [`session`] signaling client and peer in one call · [`server`] everything `serve` runs |
//! | 5 | [`report`] what a run shows: live line, summary, statistics, bench results |
//! | 6 | [`mod@bench`] connections made and measured |
//! | 7 | [`cli`] one thin file a command |

pub mod auth;
pub mod bench;
pub mod cli;
pub mod media;
pub mod pairs;
pub mod peer;
pub mod proto;
pub mod report;
pub mod server;
pub mod session;
pub mod signaling;
pub mod stats;
pub mod stun;
pub mod turn;
pub mod types;
