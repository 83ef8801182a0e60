//! The data paths (RFC 8656 §10-12): Send and Data indications, `ChannelData`, and the checks that each
//! packet must pass.

use std::{
    collections::HashMap, net::SocketAddr, ops::Range, sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use super::{Protocol, TurnAction, Usage};
use crate::stun::message::{Builder, Class, Message, attr, method, padded};
use crate::turn::{
    allocation::{Allocation, Bandwidth, RelayDirection},
    stats::DropReason,
    tuple::{ClientTransport, FiveTuple},
};

/// IPv4 header without options and UDP header, in bytes (RFC 791 §3.1, RFC 768).
const IPV4_UDP: usize = 20 + 8;

/// IPv6 header without extensions and UDP header, in bytes (RFC 8200 §3, RFC 768).
const IPV6_UDP: usize = 40 + 8;

/// Maximum payload of a UDP datagram over IPv4 in bytes: its total length, with both headers, has 16 bits.
const IPV4_MAX_PAYLOAD: usize = 65_535 - IPV4_UDP;

/// Maximum payload of a UDP datagram over IPv6, whose payload length excludes the IP header.
const IPV6_MAX_PAYLOAD: usize = 65_535 - 8;

impl<R: Clone> Protocol<R> {
    /// Frames a datagram from a peer for the client of an allocation; `None` drops it.
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
            charge(allocation, &mut self.bandwidth, RelayDirection::ToClient, bytes, now)
                .map(|()| framed)
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

    /// Handles a Send indication of `bytes` bytes.
    pub(super) fn send(
        &mut self,
        tuple: FiveTuple,
        message: &Message<'_>,
        bytes: usize,
        now: Instant,
    ) -> TurnAction<R> {
        let data = message.attributes().find(|a| a.kind == attr::DATA);
        let peer = message.address(attr::XOR_PEER_ADDRESS);
        let (Some(data), Some(peer)) = (data, peer) else { return TurnAction::Drop };
        if !message.unknown(&[attr::DATA, attr::XOR_PEER_ADDRESS]).is_empty() {
            return TurnAction::Drop;
        }
        let start = data.offset + 4;
        self.relay(tuple, peer, start..start + data.value.len(), bytes, now)
    }

    pub(super) fn channel_data(
        &mut self,
        tuple: FiveTuple,
        data: &[u8],
        now: Instant,
    ) -> TurnAction<R> {
        let &[n0, n1, l0, l1, ref rest @ ..] = data else { return TurnAction::Drop };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let number = u16::from_be_bytes([n0, n1]);
        let peer = self.allocations.get(&tuple).and_then(|a| a.peer_of(number, now));
        match peer {
            Some(peer) if length <= rest.len() => {
                self.relay(tuple, peer, 4..4 + length, data.len(), now)
            }
            _ => TurnAction::Drop,
        }
    }

    /// Relays a packet from the client to a peer; `bytes` includes its framing.
    fn relay(
        &mut self,
        tuple: FiveTuple,
        peer: SocketAddr,
        payload: Range<usize>,
        bytes: usize,
        now: Instant,
    ) -> TurnAction<R> {
        let allocation = self.allocations.get_mut(&tuple).filter(|a| a.expires > now);
        let Some(allocation) = allocation else { return TurnAction::Drop };
        let config = &self.config;
        // At the server's own address, only the relays of other clients may be reached.
        let own = peer.ip() == config.relay_address
            && !self.relayed.contains(&peer)
            && !config.peers.allows(peer.ip());
        let known = allocation.has_sent_to(peer);
        let user = config.credentials.quota_key(&allocation.username);
        let passed = if own {
            Err(DropReason::OwnAddress)
        } else if !allocation.permits(peer.ip(), now) {
            Err(DropReason::NoPermission)
        } else if !known && !may_send_to_new_peer(&mut self.users, user, now) {
            Err(DropReason::NewPeers)
        } else {
            if !known {
                allocation.note_sent_to(peer);
            }
            let bytes = on_the_wire(tuple, bytes);
            charge(allocation, &mut self.bandwidth, RelayDirection::ToPeer, bytes, now)
        };
        if let Err(reason) = passed {
            self.counters.count_drop(reason);
            return TurnAction::Drop;
        }
        self.counters.packets_to_peers.fetch_add(1, Relaxed);
        self.counters.bytes_to_peers.fetch_add(payload.len() as u64, Relaxed);
        TurnAction::ToPeer { relay: allocation.relay.clone(), peer, payload }
    }
}

/// Charges a packet to the bandwidth limits, or returns the limit that it exceeds.
fn charge<R>(
    allocation: &mut Allocation<R>,
    all: &mut Bandwidth,
    direction: RelayDirection,
    bytes: usize,
    now: Instant,
) -> Result<(), DropReason> {
    if !allocation.bandwidth.take(direction, bytes, now) {
        Err(DropReason::Bandwidth)
    } else if !all.take(direction, bytes, now) {
        Err(DropReason::TotalBandwidth)
    } else {
        Ok(())
    }
}

/// Whether a user may send to one more peer.
fn may_send_to_new_peer(users: &mut HashMap<String, Usage>, user: &str, now: Instant) -> bool {
    let bucket = users.get_mut(user).and_then(|user| user.new_peers.as_mut());
    bucket.is_none_or(|bucket| bucket.take(now))
}

/// Size of a TURN message on the wire between client and server: the larger of the two sides of the relay.
/// Over TCP it is counted like a datagram: TCP headers are longer, but messages share segments.
/// Headers of TLS and of the link layer are not counted because the relay cannot see them.
fn on_the_wire(tuple: FiveTuple, message: usize) -> usize {
    let headers = if tuple.client.ip().to_canonical().is_ipv4() { IPV4_UDP } else { IPV6_UDP };
    headers + if tuple.transport == ClientTransport::Tcp { padded(message) } else { message }
}

/// `ChannelData`, or a Data indication if the peer has no channel; `None` if it does not fit into its
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
            if tuple.transport == ClientTransport::Tcp {
                framed.resize(padded(framed.len()), 0);
            }
            framed
        }
        None => Builder::new(Class::Indication, method::DATA, rand::random())
            .address(attr::XOR_PEER_ADDRESS, peer)
            .attribute(attr::DATA, payload)
            .whole()?,
    };
    let max_length = match tuple.transport {
        ClientTransport::Tcp => usize::MAX,
        ClientTransport::Udp if tuple.client.ip().to_canonical().is_ipv4() => IPV4_MAX_PAYLOAD,
        ClientTransport::Udp => IPV6_MAX_PAYLOAD,
    };
    (framed.len() <= max_length).then_some(framed)
}
