//! NATs and links of the Linux kernel: netfilter in network namespaces, with programs of this machine
//! inside. Linux only; as root, or as any user where the system permits user namespaces.
//!
//! - [`plan`]: the configuration of a lab · [`lab`]: a running lab
//! - [`rules`]: a layer as an nftables ruleset · [`topology`]: the namespaces and their addresses
//! - `holder`: the process that holds the namespaces and ends everything that runs in them
//! - `signaling`: blocks one peer's connection to the signaling server
//! - [`datagram`]: an attacker on the path
//! - [`wire`]: loss, delay, jitter and rate between two interfaces
//! - [`lab::server`]: our server · [`lab::coturn`]: coturn
//!
//! Nothing outlives the program: no namespace has a name outside, no file is outside, and when any of the
//! processes that hold a lab ends for any reason, the others kill everything inside and exit, too. Programs
//! that have moved to their own namespaces are not found.
//!
//! Known limitation: the TCP filter of a NAT, and the filter of an IPv6 firewall, are always
//! address-and-port-dependent.

pub mod datagram;
pub mod error;
mod holder;
pub mod lab;
pub mod plan;
pub mod rules;
mod signaling;
pub mod topology;
pub mod wire;

pub use datagram::{Capture, Datagram, Injector};
pub use error::NetnsError;
pub use lab::{
    Lab,
    coturn::{Coturn, CoturnOptions},
    server::{LabServer, ServerOptions, Service},
};
pub use plan::{LabPlan, Location, NetworkPlan};
pub use topology::{OTHER_SERVER, SERVER};
