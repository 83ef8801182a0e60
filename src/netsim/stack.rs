//! The layers of a profile in the order in which a packet passes them.
//!
//! Hairpinning (RFC 4787 §6) is decided here: a packet from inside to the external address of a layer turns
//! back at that layer, with its external source address and port (REQ-9 a), if the layer hairpins, and is
//! dropped otherwise.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::translator::{EveryPort, PortSpace, Refused, Translator};
use crate::nat::{Layer, Profile};

/// Destination of a packet from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// To the outside, with this source address.
    Out(SocketAddr),
    /// Back to another internal address.
    Hairpin {
        /// The internal destination.
        inside: SocketAddr,
        /// The source shown to it: the external address of the sender.
        from: SocketAddr,
    },
}

/// Several layers, from the peer outward.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<Translator>,
    /// The outermost layer that translates: its external addresses are visible outside.
    outermost: Option<usize>,
}

impl Stack {
    /// Creates the layers of a profile. The outermost NAT has the address `outside`; those behind it have
    /// private addresses that are not visible elsewhere.
    #[must_use]
    pub fn new(profile: &Profile, outside: Ipv4Addr, seed: u64) -> Self {
        let outermost = profile.layers.iter().rposition(|layer| matches!(layer, Layer::Nat(_)));
        let layer = |(index, layer): (usize, &Layer)| {
            let inner = Ipv4Addr::new(10, 64, 0, index as u8 + 1);
            let external = if Some(index) == outermost { outside } else { inner };
            Translator::new(*layer, external, seed.wrapping_add(index as u64))
        };
        Self { layers: profile.layers.iter().enumerate().map(layer).collect(), outermost }
    }

    /// Handles a packet from inside; `ports` supplies the ports of the outermost NAT.
    ///
    /// # Errors
    /// [`Refused`] by the layer that drops the packet.
    pub fn outbound(
        &mut self,
        now: Duration,
        inside: SocketAddr,
        to: SocketAddr,
        ports: &mut dyn PortSpace,
    ) -> Result<Routed, Refused> {
        let mut from = inside;
        for index in 0..self.layers.len() {
            let layer = &mut self.layers[index];
            from = if Some(index) == self.outermost {
                layer.outbound(now, from, to, ports)?
            } else {
                layer.outbound(now, from, to, &mut EveryPort)?
            };
            if layer.external() == Some(to.ip()) {
                if !layer.hairpins() {
                    return Err(Refused::NoHairpinning);
                }
                let inside = self.inward(now, to, from, index)?;
                return Ok(Routed::Hairpin { inside, from });
            }
        }
        Ok(Routed::Out(from))
    }

    /// Handles a packet from outside; returns its internal destination.
    ///
    /// # Errors
    /// [`Refused`] by the layer that drops the packet.
    pub fn inbound(
        &mut self,
        now: Duration,
        at: SocketAddr,
        from: SocketAddr,
    ) -> Result<SocketAddr, Refused> {
        match self.layers.len() {
            0 => Ok(at),
            layers => self.inward(now, at, from, layers - 1),
        }
    }

    /// Passes the layers from `outer` inwards.
    fn inward(
        &mut self,
        now: Duration,
        at: SocketAddr,
        from: SocketAddr,
        outer: usize,
    ) -> Result<SocketAddr, Refused> {
        self.layers[..=outer]
            .iter_mut()
            .rev()
            .try_fold(at, |at, layer| layer.inbound(now, at, from))
    }

    /// Removes expired mappings.
    pub fn expire(&mut self, now: Duration, ports: &mut dyn PortSpace) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            if Some(index) == self.outermost {
                layer.expire(now, ports);
            } else {
                layer.expire(now, &mut EveryPort);
            }
        }
    }

    /// Removes all mappings of an internal address that was closed. Returns its external addresses.
    pub fn forget(&mut self, inside: SocketAddr, ports: &mut dyn PortSpace) -> Vec<SocketAddr> {
        let mut ended = vec![inside];
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let ports: &mut dyn PortSpace =
                if Some(index) == self.outermost { &mut *ports } else { &mut EveryPort };
            ended = ended.into_iter().flat_map(|inside| layer.forget(inside, ports)).collect();
        }
        ended
    }

    /// The external address; `None` if no layer translates.
    #[must_use]
    pub fn external(&self) -> Option<IpAddr> {
        self.layers[self.outermost?].external()
    }

    /// Number of mappings of the outermost NAT.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.outermost.map_or(0, |index| self.layers[index].mappings())
    }
}

#[cfg(test)]
#[path = "stack/tests.rs"]
mod tests;
