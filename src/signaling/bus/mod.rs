//! Several nodes as one server: the phone on one, the Mac on another, one room.
//!
//! # How
//!
//! Redis (7 or later) or Valkey holds a *lease* for each device with a socket: which node has it, the
//! socket's id, and an epoch that grows with every claim of the pair. Scripts change leases, so that
//! each claim, renewal and release is one step for everybody. What nodes tell each other goes by
//! PUBLISH to the channel of the other node, and is addressed to one socket there.
//!
//! | event | what happens |
//! |---|---|
//! | a socket joins | its node, subscribed before, claims the lease for the time the socket came at; the older socket of the device is kicked (4502) on whatever node; the other device's node is told, and flushes what it held |
//! | a message | PUBLISH with a number per sender and receiver; a gap closes the receiver's socket (1012) |
//! | every 10 s | the lease is renewed for 30 s, the other one looked at, and the count of messages compared |
//! | a node is gone | PUBLISH finds no subscriber, or the lease runs out: peer-left (timeout) |
//! | the connection to Redis broke | messages may be lost: sockets whose peer is on another node are closed (1012) as soon as it is back |
//! | it is not back, or silent, for 5 s | every socket is closed (1013), joins are refused (503), as the other nodes will soon give its leases away |
//!
//! A claim may be carried out late, when a node was stopped or the network held it up: it must not take
//! the lease of a socket that came after. So the epoch is the time the socket came at, by the clock of
//! Redis.
//!
//! A node sends itself an echo each second, and learns the time of Redis by it. Only while echoes
//! return is it sure of its leases, so a node that was stopped for long closes its sockets before it
//! does anything else.
//!
//! # Layout
//!
//! [`Room`](super::room::Room), [`SharedRoom`] and [`Health`] do no input or output and get the time as
//! an argument; they turn events into [`Command`]s, and [`Reply`]s into actions. The tests drive them
//! over a bus in memory that loses, repeats and reorders. `redis.rs` carries commands out, `drive.rs`
//! is the task between the two.

mod command;
mod drive;
mod envelope;
mod health;
mod link;
mod redis;
mod shared_room;
#[cfg(test)]
mod simulated;

pub use self::{
    command::{Claimed, Command, Lease, NodeId, Own, Renewed, Reply},
    envelope::{Envelope, Say},
    health::{Health, Judged},
    link::{BusCounters, BusState},
    redis::{BusConfig, BusError, check},
    shared_room::SharedRoom,
};
pub(super) use self::{drive::drive, link::Link};

use std::time::Duration;

/// How long a lease lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);

/// Between renewals of a lease.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A claim is refused when the device has a lease from a socket that came so much later. As much as
/// the nodes' ideas of the clock of Redis may differ.
pub const CLAIM_SLACK: Duration = Duration::from_millis(100);

/// Between echoes of a node to itself.
pub const ECHO_EVERY: Duration = Duration::from_secs(1);

/// A bus that let an echo wait for so long is connected to anew.
pub const HUNG_AFTER: Duration = Duration::from_secs(3);

/// A node without an echo for so long closes its sockets; far below [`LEASE`].
pub const LOST_AFTER: Duration = Duration::from_secs(5);
