//! Reports devices that join, leave or are rejected, for display on the server's terminal.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    pairs::Role,
    types::{DeviceId, PairId},
};

/// An event of a device at this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visit {
    /// A device joined the room of its pair.
    Joined {
        /// The device.
        device: DeviceId,
        /// Its role in the pair.
        role: Role,
        /// The pair.
        pair: PairId,
        /// Address of the client, if known.
        client: Option<IpAddr>,
    },
    /// A device left the room of its pair.
    Left {
        /// The device.
        device: DeviceId,
        /// Its role in the pair.
        role: Role,
        /// The pair.
        pair: PairId,
        /// How long it was in the room.
        after: Duration,
        /// Close code sent by the server; `None` if the connection broke or the device closed it.
        code: Option<u16>,
        /// Short reason.
        reason: &'static str,
    },
    /// A handshake or a token request was rejected.
    Refused {
        /// Error code, in kebab case.
        code: &'static str,
        /// The reason as a sentence; it may quote the client.
        message: String,
        /// Address of the client, if known.
        client: Option<IpAddr>,
    },
}

/// A callback for visits. The server calls it while it handles a socket, so it must not block.
#[derive(Clone, Default)]
pub struct Tap(Option<Arc<dyn Fn(Visit) + Send + Sync>>);

impl Tap {
    /// A tap that calls `watch` for every visit.
    pub fn new(watch: impl Fn(Visit) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// Passes the visit built by `visit` to the callback, if there is one.
    pub fn show(&self, visit: impl FnOnce() -> Visit) {
        if let Some(watch) = &self.0 {
            watch(visit());
        }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tap(watched)" } else { "Tap(unwatched)" })
    }
}
