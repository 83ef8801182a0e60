//! The identity of a live socket.

use std::sync::Arc;

use super::outbox::Outbox;
use crate::{
    pairs::Role,
    types::{ConnId, DeviceId},
};

/// The device behind a socket, and the queue of messages to it.
pub(super) struct Identity {
    pub device: DeviceId,
    pub role: Role,
    pub conn: ConnId,
    pub outbox: Arc<Outbox>,
}
