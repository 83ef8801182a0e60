//! NATs and links made by the kernel: netfilter in network namespaces, with programs of this machine
//! inside. Linux only; as root, or as any user where the system lets users make namespaces.
//!
//! - [`plan`]: what a lab is to be · [`lab`]: one that runs
//! - [`rules`]: a layer as a ruleset of nftables · [`topology`]: the namespaces and their addresses
//! - `holder`: the process that holds the namespaces, and ends all that runs in them
//! - `signaling`: what takes one peer's connection to the server away
//! - [`datagram`]: an attacker on the path
//! - [`wire`]: loss, delay, jitter and rate between two interfaces · [`server`]: ours · [`coturn`]: another's
//!
//! Nothing outlives the program: no namespace has a name outside, no file lies outside, and when any of the
//! processes that hold a lab ends, however it ends, the others kill what runs inside, and end too. Programs
//! that have left the lab's namespaces for one of their own are not found.
//!
//! Known limits: the filter of a NAT for TCP, and that of a firewall for IPv6, is always
//! address-and-port-dependent.

pub mod coturn;
pub mod datagram;
pub mod error;
mod holder;
pub mod lab;
pub mod plan;
pub mod rules;
pub mod server;
mod signaling;
pub mod topology;
pub mod wire;

pub use coturn::{Coturn, CoturnOptions};
pub use datagram::{Capture, Datagram, Injector};
pub use error::KernelError;
pub use lab::Lab;
pub use plan::{LabPlan, Network, Place};
pub use server::{LabServer, ServerOptions, Service};
pub use topology::{OTHER_SERVER, SERVER};
