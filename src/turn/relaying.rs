//! The data paths (RFC 8656 §10-12): Send and Data indications, `ChannelData`, and what a packet must pass.

use std::{
    collections::HashMap, net::SocketAddr, ops::Range, sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use super::{
    allocation::{Allocation, Bandwidth, Way},
    protocol::{Action, FiveTuple, Protocol, Transport, Usage},
    stats::DropReason,
};
use crate::stun::message::{Builder, Class, Message, attr, method, padded};

/// IPv4 header without options and UDP header, bytes (RFC 791 §3.1, RFC 768).
const IPV4_UDP: usize = 20 + 8;

/// IPv6 header without extensions and UDP header, bytes (RFC 8200 §3, RFC 768).
const IPV6_UDP: usize = 40 + 8;

/// Longest payload of a UDP datagram over IPv4, bytes: its total length, with both headers, has 16 bits.
const IPV4_LONGEST: usize = 65_535 - IPV4_UDP;

/// The same over IPv6, whose payload length does not count the IP header.
const IPV6_LONGEST: usize = 65_535 - 8;

impl<R: Clone> Protocol<R> {
    /// Frames what a peer sent for the client of that allocation; `None` drops it.
    pub fn peer_datagram(
        &mut self,
        tuple: FiveTuple,
        peer: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let allocation = self.allocations.get_mut(&tuple).filter(|a| a.expires > now)?;
        let framed = if allocation.permits(peer.ip(), now) {
            framed(tuple, allocation.channel_of(peer, now), peer, payload)
                .ok_or(DropReason::TooLarge)
        } else {
            Err(DropReason::NoPermission)
        };
        let passed = framed.and_then(|framed| {
            let bytes = on_the_wire(tuple, framed.len());
            charge(allocation, &mut self.bandwidth, Way::ToClient, bytes, now).map(|()| framed)
        });
        match passed {
            Ok(framed) => {
                self.counters.packets_to_clients.fetch_add(1, Relaxed);
                self.counters.bytes_to_clients.fetch_add(payload.len() as u64, Relaxed);
                Some(framed)
            }
            Err(reason) => {
                self.counters.count_drop(reason);
                None
            }
        }
    }

    /// A Send indication of so many bytes.
    pub(super) fn send(
        &mut self,
        tuple: FiveTuple,
        message: &Message<'_>,
        bytes: usize,
        now: Instant,
    ) -> Action<R> {
        let data = message.attributes().find(|a| a.kind == attr::DATA);
        let peer = message.address(attr::XOR_PEER_ADDRESS);
        let (Some(data), Some(peer)) = (data, peer) else { return Action::Drop };
        if !message.unknown(&[attr::DATA, attr::XOR_PEER_ADDRESS]).is_empty() {
            return Action::Drop;
        }
        let start = data.offset + 4;
        self.relay(tuple, peer, start..start + data.value.len(), bytes, now)
    }

    pub(super) fn channel_data(
        &mut self,
        tuple: FiveTuple,
        data: &[u8],
        now: Instant,
    ) -> Action<R> {
        let &[n0, n1, l0, l1, ref rest @ ..] = data else { return Action::Drop };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let number = u16::from_be_bytes([n0, n1]);
        let peer = self.allocations.get(&tuple).and_then(|a| a.peer_of(number, now));
        match peer {
            Some(peer) if length <= rest.len() => {
                self.relay(tuple, peer, 4..4 + length, data.len(), now)
            }
            _ => Action::Drop,
        }
    }

    /// Lets a packet of the client through to a peer; with its framing it has so many bytes.
    fn relay(
        &mut self,
        tuple: FiveTuple,
        peer: SocketAddr,
        payload: Range<usize>,
        bytes: usize,
        now: Instant,
    ) -> Action<R> {
        let allocation = self.allocations.get_mut(&tuple).filter(|a| a.expires > now);
        let Some(allocation) = allocation else { return Action::Drop };
        let config = &self.config;
        // Another client's relay may be reached there, but no other service of this machine.
        let own = peer.ip() == config.relay_address
            && !self.relayed.contains(&peer)
            && !config.peers.allows(peer.ip());
        let known = allocation.has_sent_to(peer);
        let user = config.credentials.quota_key(&allocation.username);
        let passed = if own {
            Err(DropReason::OwnAddress)
        } else if !allocation.permits(peer.ip(), now) {
            Err(DropReason::NoPermission)
        } else if !known && !may_begin(&mut self.users, user, now) {
            Err(DropReason::NewPeers)
        } else {
            if !known {
                allocation.note_sent_to(peer);
            }
            let bytes = on_the_wire(tuple, bytes);
            charge(allocation, &mut self.bandwidth, Way::ToPeer, bytes, now)
        };
        if let Err(reason) = passed {
            self.counters.count_drop(reason);
            return Action::Drop;
        }
        self.counters.packets_to_peers.fetch_add(1, Relaxed);
        self.counters.bytes_to_peers.fetch_add(payload.len() as u64, Relaxed);
        Action::ToPeer { relay: allocation.relay.clone(), peer, payload }
    }
}

/// Counts a packet against the bandwidth, if there is enough.
fn charge<R>(
    allocation: &mut Allocation<R>,
    all: &mut Bandwidth,
    way: Way,
    bytes: usize,
    now: Instant,
) -> Result<(), DropReason> {
    if !allocation.bandwidth.take(way, bytes, now) {
        Err(DropReason::Bandwidth)
    } else if !all.take(way, bytes, now) {
        Err(DropReason::TotalBandwidth)
    } else {
        Ok(())
    }
}

/// Whether a user may send to one more peer.
fn may_begin(users: &mut HashMap<String, Usage>, user: &str, now: Instant) -> bool {
    let bucket = users.get_mut(user).and_then(|user| user.new_peers.as_mut());
    bucket.is_none_or(|bucket| bucket.take(now))
}

/// What a TURN message costs between client and server, which is the longer of its two ways. Over TCP it
/// is counted as if it were a datagram, too: messages share segments there, whose headers are longer.
/// Headers of TLS and of the link are not counted, as they depend on what the relay does not see.
fn on_the_wire(tuple: FiveTuple, message: usize) -> usize {
    let headers = if tuple.client.ip().to_canonical().is_ipv4() { IPV4_UDP } else { IPV6_UDP };
    headers + if tuple.transport == Transport::Tcp { padded(message) } else { message }
}

/// `ChannelData`, or a Data indication where the peer has no channel; none when it does not fit into its
/// length fields or a datagram to the client.
fn framed(
    tuple: FiveTuple,
    channel: Option<u16>,
    peer: SocketAddr,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let framed = match channel {
        Some(number) => {
            let mut framed = Vec::with_capacity(4 + padded(payload.len()));
            framed.extend_from_slice(&number.to_be_bytes());
            framed.extend_from_slice(&u16::try_from(payload.len()).ok()?.to_be_bytes());
            framed.extend_from_slice(payload);
            if tuple.transport == Transport::Tcp {
                framed.resize(padded(framed.len()), 0);
            }
            framed
        }
        None => Builder::new(Class::Indication, method::DATA, rand::random())
            .address(attr::XOR_PEER_ADDRESS, peer)
            .attribute(attr::DATA, payload)
            .whole()?,
    };
    let longest = match tuple.transport {
        Transport::Tcp => usize::MAX,
        Transport::Udp if tuple.client.ip().to_canonical().is_ipv4() => IPV4_LONGEST,
        Transport::Udp => IPV6_LONGEST,
    };
    (framed.len() <= longest).then_some(framed)
}
