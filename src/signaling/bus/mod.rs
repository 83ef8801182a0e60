//! Several nodes act as one server: the phone on one node and the Mac on another share a room.
//!
//! # Design
//!
//! Redis (7 or later) or Valkey holds a *lease* for each device with a socket: its node, the
//! socket's id, and an epoch that grows with every claim of the device. Scripts change the leases, so
//! that each claim, renewal and release is atomic. Nodes send messages to each other by PUBLISH to
//! the channel of the receiving node; each message is addressed to one socket there.
//!
//! | event | what happens |
//! |---|---|
//! | a socket joins | its node, which is already subscribed, claims the lease with the socket's arrival time; an older socket of the device, on any node, is closed (4502); the other device's node is notified and flushes the messages it held |
//! | a message | PUBLISH with a sequence number per sender and receiver; a gap closes the receiver's socket (1012) |
//! | every 10 s | the lease is renewed for 30 s, the other device's lease is read, and the message counts are compared |
//! | a node is gone | PUBLISH finds no subscriber, or the lease expires: peer-left (timeout) |
//! | the connection to Redis broke | messages may be lost: sockets with a peer on another node are closed (1012) once the connection is restored |
//! | no connection or no answer for 5 s | every socket is closed (1013) and joins are rejected (503), because the leases will soon expire and other nodes can claim them |
//!
//! A claim may be executed late, after a node was stopped or the network delayed it. It must not take
//! the lease from a socket that arrived later, so the epoch is the arrival time of the socket by the
//! clock of Redis.
//!
//! Each second, a node sends itself an echo, which also returns the time of Redis. Only while echoes
//! return can it trust its leases, so a node that was stopped for long closes its sockets before it
//! does anything else.
//!
//! # Layout
//!
//! [`Room`](super::room::Room), [`SharedRoom`] and [`Health`] do no input or output and get the time as
//! an argument; they turn events into [`Command`]s, and [`Reply`]s into actions. The tests run them on
//! an in-memory bus that loses, repeats and reorders messages. `redis.rs` executes the commands;
//! `drive.rs` is the task that connects the two.

mod command;
mod drive;
mod envelope;
mod handle;
mod health;
mod node;
mod redis;
mod shared_room;
#[cfg(test)]
mod simulated;

pub use self::{
    command::{Claimed, Command, Lease, Own, Renewed, Reply},
    envelope::{Envelope, Say},
    handle::{BusCounters, BusState},
    health::{Health, Judged},
    node::NodeId,
    redis::{BusConfig, BusError, check},
    shared_room::SharedRoom,
};
pub(super) use self::{drive::drive, handle::BusHandle};

use std::time::Duration;

/// Lifetime of a lease that is not renewed.
pub const LEASE: Duration = Duration::from_secs(30);

/// Interval between renewals of a lease.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A claim is rejected if the device has a lease for a socket that arrived this much later. Covers
/// the error of the nodes' estimates of the clock of Redis.
pub const CLAIM_SLACK: Duration = Duration::from_millis(100);

/// Interval between echoes of a node to itself.
pub const ECHO_EVERY: Duration = Duration::from_secs(1);

/// Timeout of an echo, after which the node reconnects to the bus.
pub const HUNG_AFTER: Duration = Duration::from_secs(3);

/// Time without an echo after which a node closes its sockets; far below [`LEASE`].
pub const LOST_AFTER: Duration = Duration::from_secs(5);
