//! Selects the datagrams that reach a peer connection: only those from a path that ICE has authenticated.
//!
//! `rtc` 0.21.1 passes DTLS and SRTP to the connection regardless of their source address
//! (`peer_connection/handler/ice.rs:83`), attributes indications and channel data from any address to its TURN server
//! (`webrtc` 0.21.1, `peer_connection/transport/turn_relayer.rs:438`), and acts on a role conflict before it verifies
//! the request (`rtc-ice` 0.21.1, `agent/mod.rs:1278`). So our sockets pass only:
//!
//! - connectivity checks and their answers with a valid MESSAGE-INTEGRITY (RFC 8445 §7.1.1 and §7.3); each opens
//!   the path that it arrived on, including peer-reflexive ones
//! - answers from STUN and TURN servers to our requests (RFC 8489 §6.3.1)
//! - DTLS, SRTP and SRTCP on an open path; a path through a TURN server that we use consists of the server's address
//!   and the peer's (RFC 8656 §11 and §12)
//!
//! Everything else is dropped before the crate sees it. The guard has no sockets and no clock.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
};

use super::sdp::{IceCredentials, ice_credentials};
use crate::{
    lock::locked,
    stun::message::{Class, Message, TransactionId, attr, method},
};

/// Maximum number of credentials remembered for each end: those of the current ICE generation and the previous one,
/// for several m-lines.
const MAX_CREDENTIALS: usize = 8;

/// Maximum number of open paths remembered. Only the peer can open a path; all but a few belong to networks that it
/// has left.
const MAX_PATHS: usize = 64;

/// Maximum number of requests to STUN and TURN servers whose answers are accepted; gathering sends about a dozen.
const MAX_REQUESTS: usize = 1024;

/// Maximum number of TURN servers remembered, and of channels bound on them.
const MAX_SERVERS: usize = 64;

/// The origin of a datagram: the TURN server that relayed it, if any, and its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Path {
    relay: Option<SocketAddr>,
    peer: SocketAddr,
}

/// How a datagram is classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not for the connection.
    Drop,
    /// An authenticated connectivity check or answer from the peer.
    Check,
    /// An answer from a STUN or TURN server, or an indication without data.
    Server,
    /// DTLS, SRTP or SRTCP on an open path.
    Data,
}

/// A TURN channel (RFC 8656 §12): server, number, peer.
type Channel = (SocketAddr, [u8; 2], SocketAddr);

/// The datagram filter of one peer connection, shared by its sockets.
#[derive(Debug, Default)]
pub(super) struct Guard(Mutex<GuardState>);

#[derive(Debug, Default)]
struct GuardState {
    local: VecDeque<IceCredentials>,
    remote: VecDeque<IceCredentials>,
    paths: VecDeque<Path>,
    requests: VecDeque<TransactionId>,
    servers: VecDeque<SocketAddr>,
    channels: VecDeque<Channel>,
}

impl Guard {
    fn state(&self) -> MutexGuard<'_, GuardState> {
        locked(&self.0)
    }

    /// Remembers the credentials of our description, which the peer's checks use.
    pub(super) fn local_description(&self, sdp: &str) {
        remember_credentials(&mut self.state().local, sdp);
    }

    /// Remembers the credentials of the peer's description, which its answers to our checks use.
    pub(super) fn remote_description(&self, sdp: &str) {
        remember_credentials(&mut self.state().remote, sdp);
    }

    /// The peer's password for a check with this USERNAME (RFC 8445 §7.2.2).
    pub(super) fn peer_password(&self, username: &str) -> Option<String> {
        let theirs = username.split(':').next()?;
        let state = self.state();
        let known = state.remote.iter().rev().find(|known| known.ufrag == theirs)?;
        Some(known.password.clone())
    }

    /// Inspects an outgoing datagram: requests to servers are remembered, so that their answers pass.
    pub(super) fn sent(&self, to: SocketAddr, datagram: &[u8]) {
        // Media and DTLS, the bulk of the traffic, need no inspection.
        if datagram.first().is_none_or(|first| *first > 3) {
            return;
        }
        let Some(message) = Message::parse(datagram).filter(|m| m.class == Class::Request) else {
            return;
        };
        let is_check = message.method == method::BINDING && message.get(attr::USERNAME).is_some();
        if !is_check {
            self.state().requested(canonical(to), &message);
        }
    }

    /// Classifies a received datagram.
    pub(super) fn verdict(&self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        self.state().verdict(canonical(from), datagram)
    }
}

impl GuardState {
    fn requested(&mut self, server: SocketAddr, request: &Message<'_>) {
        remember(&mut self.requests, request.transaction, MAX_REQUESTS);
        if request.method == method::ALLOCATE {
            remember(&mut self.servers, server, MAX_SERVERS);
        }
        if request.method == method::CHANNEL_BIND
            && let Some(&[high, low, ..]) = request.get(attr::CHANNEL_NUMBER)
            && let Some(peer) = request.address(attr::XOR_PEER_ADDRESS)
        {
            self.channels.retain(|(at, number, _)| (*at, *number) != (server, [high, low]));
            remember(&mut self.channels, (server, [high, low], canonical(peer)), MAX_SERVERS);
        }
    }

    fn verdict(&mut self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        match datagram {
            [0..=3, ..] => {
                let Some(message) = Message::parse(datagram) else { return Verdict::Drop };
                if matches!(message.class, Class::Success | Class::Error)
                    && self.requests.contains(&message.transaction)
                {
                    return Verdict::Server;
                }
                if message.class == Class::Indication {
                    return self.indication(from, &message);
                }
                self.check(Path { relay: None, peer: from }, &message)
            }
            [0x40..=0x4F, low, high_length, low_length, data @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high_length, *low_length]));
                let number = [datagram[0], *low];
                let bound = |channel: &&Channel| (channel.0, channel.1) == (from, number);
                match (self.channels.iter().find(bound), data.get(..length)) {
                    (Some((_, _, peer)), Some(data)) => self.relayed(from, *peer, data),
                    _ => Verdict::Drop,
                }
            }
            _ => self.data(Path { relay: None, peer: from }, datagram),
        }
    }

    fn indication(&mut self, from: SocketAddr, message: &Message<'_>) -> Verdict {
        match message.method {
            method::DATA if self.servers.contains(&from) => {
                let peer = message.address(attr::XOR_PEER_ADDRESS).map(canonical);
                match (peer, message.get(attr::DATA)) {
                    (Some(peer), Some(data)) => self.relayed(from, peer, data),
                    _ => Verdict::Drop,
                }
            }
            // Keeps a NAT binding open and expects no answer (RFC 8445 §11).
            method::BINDING if self.paths.iter().any(|path| path.peer == from) => Verdict::Server,
            _ => Verdict::Drop,
        }
    }

    fn relayed(&mut self, server: SocketAddr, peer: SocketAddr, data: &[u8]) -> Verdict {
        let path = Path { relay: Some(server), peer };
        if matches!(data, [0..=3, ..]) {
            return Message::parse(data)
                .map_or(Verdict::Drop, |message| self.check(path, &message));
        }
        self.data(path, data)
    }

    /// Verifies a request or an answer from the peer's ICE agent; a valid one opens its path.
    fn check(&mut self, path: Path, message: &Message<'_>) -> Verdict {
        let authentic = message.method == method::BINDING
            && match message.class {
                Class::Request => {
                    let name = message.text(attr::USERNAME).unwrap_or_default();
                    let ours = name.split(':').next().unwrap_or_default();
                    let mut known = self.local.iter().filter(|known| known.ufrag == ours);
                    known.any(|known| message.verify(known.password.as_bytes()))
                }
                Class::Success | Class::Error => {
                    self.remote.iter().any(|known| message.verify(known.password.as_bytes()))
                }
                Class::Indication => false,
            };
        if !authentic {
            return Verdict::Drop;
        }
        if !self.paths.contains(&path) {
            remember(&mut self.paths, path, MAX_PATHS);
        }
        Verdict::Check
    }

    /// Whether DTLS (first byte 20 to 63), SRTP or SRTCP (128 to 191; RFC 7983 §7) arrived on an open path.
    fn data(&self, path: Path, datagram: &[u8]) -> Verdict {
        let kind = matches!(datagram.first(), Some(20..=63 | 128..=191));
        if kind && self.paths.contains(&path) { Verdict::Data } else { Verdict::Drop }
    }
}

/// Adds a value; only the newest values are kept, without duplicates.
fn remember<T: PartialEq>(kept: &mut VecDeque<T>, new: T, max_len: usize) {
    if kept.contains(&new) {
        return;
    }
    if kept.len() >= max_len {
        kept.pop_front();
    }
    kept.push_back(new);
}

fn remember_credentials(kept: &mut VecDeque<IceCredentials>, sdp: &str) {
    for credentials in ice_credentials(sdp) {
        remember(kept, credentials, MAX_CREDENTIALS);
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::message::Builder;

    const OURS: &str = "v=0\r\na=ice-ufrag:our1\r\na=ice-pwd:our-password-of-24-characters\r\n";
    const THEIRS: &str = "v=0\r\na=ice-ufrag:thr1\r\na=ice-pwd:their-password-of-24-character\r\n";
    const CHANGE_CIPHER_SPEC: [u8; 14] = [20, 254, 253, 0, 1, 0, 0, 0, 0, 7, 208, 0, 1, 1];

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn request(username: &str, password: &str) -> Vec<u8> {
        Builder::new(Class::Request, method::BINDING, [1; 12])
            .attribute(attr::USERNAME, username.as_bytes())
            .integrity(password.as_bytes())
            .finish()
    }

    fn answer(class: Class, password: &str) -> Vec<u8> {
        Builder::new(class, method::BINDING, [2; 12]).integrity(password.as_bytes()).finish()
    }

    fn guard() -> Guard {
        let guard = Guard::default();
        guard.local_description(OURS);
        guard.remote_description(THEIRS);
        guard
    }

    #[test]
    fn only_an_authenticated_check_opens_a_path() {
        let guard = guard();
        let (peer, stranger) = (at("192.0.2.1:5000"), at("192.0.2.1:5001"));
        let data = [&CHANGE_CIPHER_SPEC[..], &[0x80; 40], &[22; 40], &[23; 40]];
        for wrong in [
            request("our1:thr1", "wrong-password-of-24-characters"),
            request("other:thr1", "our-password-of-24-characters"),
            answer(Class::Success, "our-password-of-24-characters"),
            Builder::new(Class::Request, method::BINDING, [1; 12]).finish(),
        ] {
            assert_eq!(guard.verdict(peer, &wrong), Verdict::Drop);
            assert!(data.iter().all(|data| guard.verdict(peer, data) == Verdict::Drop));
        }
        let check = request("our1:thr1", "our-password-of-24-characters");
        assert_eq!(guard.verdict(at("[::ffff:192.0.2.1]:5000"), &check), Verdict::Check);
        for data in data {
            assert_eq!(guard.verdict(peer, data), Verdict::Data);
            assert_eq!(guard.verdict(stranger, data), Verdict::Drop);
        }
        let theirs = answer(Class::Success, "their-password-of-24-character");
        assert_eq!(guard.verdict(stranger, &theirs), Verdict::Check, "peer-reflexive");
        assert_eq!(guard.verdict(stranger, &[0x80; 40]), Verdict::Data);
        for other in [&[][..], &[5; 40], &[0xFF; 40], &[0x50; 40], &[0, 1]] {
            assert_eq!(guard.verdict(peer, other), Verdict::Drop, "{other:?}");
        }
    }

    #[test]
    fn a_restart_keeps_paths_and_adds_credentials() {
        let guard = guard();
        let peer = at("192.0.2.1:5000");
        let old = request("our1:thr1", "our-password-of-24-characters");
        assert_eq!(guard.verdict(peer, &old), Verdict::Check);
        let renewed = OURS.replace("our1", "our2").replace("our-", "new-");
        guard.local_description(&renewed);
        assert_eq!(guard.verdict(peer, &[0x80; 40]), Verdict::Data);
        let moved = at("198.51.100.1:6000");
        assert_eq!(guard.verdict(moved, &old), Verdict::Check, "until the new path is selected");
        let check = request("our2:thr1", "new-password-of-24-characters");
        assert_eq!(guard.verdict(at("198.51.100.1:6001"), &check), Verdict::Check);
    }

    #[test]
    fn servers_are_trusted_only_after_a_request() {
        let guard = guard();
        let (server, peer) = (at("192.0.2.9:3478"), at("192.0.2.1:5000"));
        let answer = Builder::new(Class::Success, method::ALLOCATE, [9; 12]).finish();
        assert_eq!(guard.verdict(server, &answer), Verdict::Drop);
        let allocate = Builder::new(Class::Request, method::ALLOCATE, [9; 12]).finish();
        guard.sent(server, &allocate);
        assert_eq!(guard.verdict(server, &answer), Verdict::Server);

        let indication = |data: &[u8]| {
            Builder::new(Class::Indication, method::DATA, [7; 12])
                .address(attr::XOR_PEER_ADDRESS, peer)
                .attribute(attr::DATA, data)
                .finish()
        };
        let check = request("our1:thr1", "our-password-of-24-characters");
        assert_eq!(guard.verdict(peer, &indication(&check)), Verdict::Drop, "not a server");
        assert_eq!(guard.verdict(server, &indication(&[0x80; 40])), Verdict::Drop);
        assert_eq!(guard.verdict(server, &indication(&check)), Verdict::Check);
        assert_eq!(guard.verdict(server, &indication(&[0x80; 40])), Verdict::Data);
        assert_eq!(
            guard.verdict(peer, &[0x80; 40]),
            Verdict::Drop,
            "only the relayed path is open"
        );

        let channel = |data: &[u8]| [&[0x40, 1, 0, data.len() as u8][..], data].concat();
        assert_eq!(guard.verdict(server, &channel(&[0x80; 40])), Verdict::Drop, "not bound");
        let bind = Builder::new(Class::Request, method::CHANNEL_BIND, [8; 12])
            .attribute(attr::CHANNEL_NUMBER, &[0x40, 1, 0, 0])
            .address(attr::XOR_PEER_ADDRESS, peer)
            .finish();
        guard.sent(server, &bind);
        assert_eq!(guard.verdict(server, &channel(&[0x80; 40])), Verdict::Data);
        assert_eq!(guard.verdict(peer, &channel(&[0x80; 40])), Verdict::Drop);
        assert_eq!(guard.verdict(server, &[0x40, 1, 0, 200, 1]), Verdict::Drop, "cut short");
    }

    #[test]
    fn remembered_state_is_bounded() {
        let guard = guard();
        for port in 1..=5000u16 {
            let mut id = [0; 12];
            id[..2].copy_from_slice(&port.to_be_bytes());
            guard.sent(
                SocketAddr::new(at("192.0.2.9:1").ip(), port),
                &Builder::new(Class::Request, method::ALLOCATE, id).finish(),
            );
            guard.remote_description(&THEIRS.replace("thr1", &format!("u{port}")));
            let check = request("our1:thr1", "our-password-of-24-characters");
            guard.verdict(SocketAddr::new(at("192.0.2.9:1").ip(), port), &check);
        }
        let state = guard.state();
        assert_eq!((state.requests.len(), state.servers.len()), (MAX_REQUESTS, MAX_SERVERS));
        assert_eq!((state.paths.len(), state.remote.len()), (MAX_PATHS, MAX_CREDENTIALS));
    }
}
