//! Who comes, who goes and who is refused, for those who watch a server on a terminal.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    pairs::Role,
    types::{DeviceId, PairId},
};

/// Something that happened at the server's door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visit {
    /// A device has a seat in its room.
    Joined {
        /// Who.
        device: DeviceId,
        /// Which of the pair's two.
        role: Role,
        /// Whose room.
        pair: PairId,
        /// From where, where that is known.
        client: Option<IpAddr>,
    },
    /// A device has left its room, for whatever reason.
    Left {
        /// Who.
        device: DeviceId,
        /// Which of the pair's two.
        role: Role,
        /// Whose room.
        pair: PairId,
        /// How long it was there.
        after: Duration,
        /// Close code that the server sent; none when the connection broke or the device closed it.
        code: Option<u16>,
        /// Why, in a few words.
        reason: &'static str,
    },
    /// A handshake or a request for a token was refused.
    Refused {
        /// Why, in kebab case.
        code: &'static str,
        /// Why, in a sentence; it may quote the client.
        message: String,
        /// From where, where that is known.
        client: Option<IpAddr>,
    },
}

/// Whoever watches. It is called in the middle of things, so it must neither wait nor block.
#[derive(Clone, Default)]
pub struct Tap(Option<Arc<dyn Fn(Visit) + Send + Sync>>);

impl Tap {
    /// Has `watch` called with every visit.
    pub fn new(watch: impl Fn(Visit) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// Shows the visit that `visit` makes, if anybody watches.
    pub fn show(&self, visit: impl FnOnce() -> Visit) {
        if let Some(watch) = &self.0 {
            watch(visit());
        }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tap(watched)" } else { "Tap(nobody)" })
    }
}
