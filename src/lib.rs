//! `orion-peer`: a headless WebRTC peer and test harness for the Orion pipeline, one H.264 keyframe
//! every few seconds from a phone to a Mac.
//!
//! [`guide`] is the handbook: how to use it, what it speaks, what its output means.
//!
//! # Layout
//!
//! Modules stand on floors and import only from lower ones (`tests/it/layering.rs` checks it):
//!
//! | floor | modules |
//! |---|---|
//! | 0, vocabulary | [`types`] · [`units`] quantities as people write them · [`stats`] histograms, intervals, differences, bottlenecks · [`page`] what browsers are shown · [`guide`] the handbook · [`metering`] so many at a time, so often |
//! | 1, each alone | [`proto`] every wire message · [`media`] source, frame, encoder, access unit, decoder, sink · [`http`] bounded HTTP connections · [`nat`] what lies between a peer and the internet |
//! | 2 | [`stun`] STUN and TURN over UDP, TCP and TLS, NAT behaviour · [`auth`] tokens and TURN credentials · [`pairs`] the `device_pairs` store · [`netsim`] NATs and links simulated in this process |
//! | 3 | [`peer`] the WebRTC peer · [`netns`] NATs and links by the kernel, in network namespaces |
//! | 4 | [`signaling`] client, room, relay · [`turn`] embedded STUN and TURN |
//! | 5 | [`session`] signaling client and peer in one call · [`server`] everything `serve` runs |
//! | 6 | [`report`] what a run shows: live line, summary, statistics, bench results · [`view`] the page of `recv --view` |
//! | 7 | [`mod@bench`] connections made and measured · [`doctor`] what a network and its servers can do · [`check`] a server held against the wire contract · [`load`] many rooms on a signaling server |
//! | 8 | [`lab`] two peers behind pairs of networks, and networks that change during a call |
//! | 9 | [`cli`] one thin file a command |

pub mod auth;
pub mod bench;
pub mod check;
pub mod cli;
pub mod doctor;
pub mod guide;
pub mod http;
pub mod lab;
pub mod load;
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
pub mod turn;
pub mod types;
pub mod units;
pub mod view;
