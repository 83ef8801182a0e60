//! `orion-peer`: a headless WebRTC peer and test harness for the Orion pipeline, one H.264 keyframe
//! every few seconds from a phone to a Mac.
//!
//! [`guide`] is the handbook: usage, wire contract, and the meaning of the output.
//!
//! # Layout
//!
//! Modules are arranged in layers and import only from lower ones (`tests/it/layering.rs` checks this):
//!
//! | layer | modules |
//! |---|---|
//! | 0, vocabulary | [`types`] · [`text`] printable text, rough durations · [`units`] human-readable quantities · [`stats`] histograms, intervals, differences, bottlenecks · [`page`] the page served to browsers · [`guide`] the handbook · `lock` |
//! | 1, independent | [`proto`] all wire messages · [`metering`] concurrency and rate limits · [`media`] source, frame, encoder, access unit, decoder, sink · [`http`] bounded HTTP connections · [`tls`] trusted certificates · [`nat`] NAT profiles and links |
//! | 2 | [`stun`] STUN and TURN over UDP, TCP and TLS, NAT behavior · [`auth`] tokens and TURN credentials · [`pairs`] the `device_pairs` store · [`netsim`] NATs and links simulated in-process |
//! | 3 | [`peer`] the WebRTC peer · [`netns`] kernel NATs and links in network namespaces |
//! | 4 | [`signaling`] client, room, relay · [`turn`] embedded STUN and TURN |
//! | 5 | [`session`] a call: signaling client plus peer · [`server`] everything `serve` runs |
//! | 6 | [`report`] output of a run: live line, summary, statistics, bench results · [`view`] the page of `recv --view` |
//! | 7 | [`mod@bench`] connection measurements · [`doctor`] diagnosis of a network and its servers · [`check`] conformance of a server to the wire contract · [`load`] load on a signaling server |
//! | 8 | [`lab`] two peers behind given networks, including ones that change during a call |
//! | 9 | [`cli`] one thin file per command |

pub mod auth;
pub mod bench;
pub mod check;
pub mod cli;
pub mod doctor;
pub mod guide;
pub mod http;
pub mod lab;
pub mod load;
mod lock;
pub mod media;
pub mod metering;
pub mod nat;
pub mod netns;
pub mod netsim;
pub mod page;
pub mod pairs;
pub mod peer;
pub mod proto;
pub mod report;
pub mod server;
pub mod session;
pub mod signaling;
pub mod stats;
pub mod stun;
pub mod text;
pub mod tls;
pub mod turn;
pub mod types;
pub mod units;
pub mod view;
