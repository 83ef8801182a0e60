//! What the command `lab` does with two real peers: run them behind [`matrix`] pairs of networks, or change
//! the network during a call ([`timeline`]). The networks are [`netsim`](crate::netsim), simulated in this
//! process, or [`netns`](crate::netns), network namespaces of the kernel.

pub mod matrix;
pub mod timeline;
