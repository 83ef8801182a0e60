//! A seeded generator of packets of every kind that a stranger without any secrets may send to a port of a peer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use orion_peer::stun::message::{Builder, Class, attr, method};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// `ChangeCipherSpec` of epoch 1, which DTLS never encrypts.
pub const CHANGE_CIPHER_SPEC: [u8; 14] = [20, 254, 253, 0, 1, 0, 0, 0, 0, 7, 208, 0, 1, 1];

/// Role attributes of ICE (RFC 8445 §16.1).
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802A;

/// Handshake types of DTLS 1.2 (RFC 6347 §4.3.2).
const HANDSHAKE_TYPES: [u8; 11] = [0, 1, 2, 3, 4, 11, 12, 14, 15, 16, 20];

/// Maximum payload of a datagram over Ethernet and IPv4.
const LARGEST: usize = 1472;

/// A plaintext alert, fatal `handshake_failure`, with this record sequence number.
pub fn alert(number: u8) -> Vec<u8> {
    vec![21, 254, 253, 0, 0, 0, 0, 0, 0, 0, number, 0, 2, 2, 40]
}

/// Generates packets, the same for the same seed.
pub struct Packets(StdRng);

impl Packets {
    /// Starts with this seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut noise = vec![0; length];
        self.0.fill(&mut noise[..]);
        noise
    }

    /// A packet of any kind.
    pub fn any(&mut self) -> Vec<u8> {
        match self.below(14) {
            0 => self.stun(),
            1 => self.request(),
            2 => self.answer(),
            3 => self.indication(),
            4 => self.channel_data(),
            5 | 6 => self.records(),
            7 => CHANGE_CIPHER_SPEC.to_vec(),
            8 => alert(self.0.random()),
            9 => self.handshake(),
            10 => self.rtp(),
            11 => self.rtcp(),
            12 => {
                let mut cut = self.inner();
                cut.truncate(self.below(cut.len() + 1));
                cut
            }
            _ => {
                let length = self.pick(&[0, 0, 1, 2, 13, 20, 100, LARGEST]);
                self.noise(length)
            }
        }
    }

    /// Content that a relay may carry.
    fn inner(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => self.request(),
            1 => self.records(),
            2 => CHANGE_CIPHER_SPEC.to_vec(),
            3 => self.handshake(),
            4 => self.rtp(),
            _ => self.rtcp(),
        }
    }

    fn message(&mut self, class: Class, method: u16) -> Builder {
        Builder::new(class, method, self.0.random())
    }

    fn method(&mut self) -> u16 {
        self.pick(&[
            method::BINDING,
            method::ALLOCATE,
            method::REFRESH,
            method::SEND,
            method::DATA,
            method::CREATE_PERMISSION,
            method::CHANNEL_BIND,
        ])
    }

    fn address(&mut self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.0.random())
    }

    /// A message without attributes.
    fn stun(&mut self) -> Vec<u8> {
        let class = self.pick(&[Class::Request, Class::Indication, Class::Success, Class::Error]);
        let method = self.method();
        self.message(class, method).finish()
    }

    /// A connectivity check with a forged name, in either role, with no or a wrong MESSAGE-INTEGRITY.
    fn request(&mut self) -> Vec<u8> {
        let method = self.pick(&[method::BINDING, method::BINDING, method::ALLOCATE]);
        let name = format!("{:04x}:{:04x}", self.below(0x10000), self.below(0x10000));
        let role = self.pick(&[ICE_CONTROLLED, ICE_CONTROLLING]);
        let (priority, tie_breaker): ([u8; 4], [u8; 8]) = (self.0.random(), self.0.random());
        let mut message = self
            .message(Class::Request, method)
            .attribute(attr::USERNAME, name.as_bytes())
            .attribute(attr::PRIORITY, &priority)
            .attribute(role, &tie_breaker);
        if self.0.random() {
            message = message.attribute(attr::USE_CANDIDATE, &[]);
        }
        self.sealed(message)
    }

    /// MESSAGE-INTEGRITY with a wrong key, as noise, or none; then FINGERPRINT or none.
    fn sealed(&mut self, message: Builder) -> Vec<u8> {
        let message = match self.below(3) {
            0 => message,
            1 => message.attribute(attr::MESSAGE_INTEGRITY, &self.noise(20)),
            _ => message.integrity(&self.noise(24)),
        };
        if self.0.random() { message.fingerprint().finish() } else { message.finish() }
    }

    /// An answer without a request, including one from a TURN server, or an error that requires a reaction.
    fn answer(&mut self) -> Vec<u8> {
        let (method, address) = (self.method(), self.address());
        let message = if self.0.random() {
            self.message(Class::Success, method)
                .address(attr::XOR_MAPPED_ADDRESS, address)
                .address(attr::XOR_RELAYED_ADDRESS, address)
                .attribute(attr::LIFETIME, &[0; 4])
        } else {
            let code = self.pick(&[300, 400, 401, 403, 437, 438, 486, 487, 500, 699]);
            self.message(Class::Error, method)
                .error(code, "\u{1b}[31mforged")
                .attribute(attr::REALM, b"stranger")
                .attribute(attr::NONCE, b"forged")
        };
        self.sealed(message)
    }

    /// A Data or Send indication.
    fn indication(&mut self) -> Vec<u8> {
        let (inner, address) = (self.inner(), self.address());
        let method = self.pick(&[method::DATA, method::SEND]);
        self.message(Class::Indication, method)
            .address(attr::XOR_PEER_ADDRESS, address)
            .attribute(attr::DATA, &inner)
            .finish()
    }

    fn channel_data(&mut self) -> Vec<u8> {
        let inner = self.inner();
        let number = 0x4000 + self.below(0x1000) as u16;
        let length = self.pick(&[inner.len() as u16, inner.len() as u16, 0, 0xFFFF]);
        [&number.to_be_bytes()[..], &length.to_be_bytes(), &inner].concat()
    }

    /// DTLS records of any content type and of epochs 0 to 2, one to three of them in a datagram.
    fn records(&mut self) -> Vec<u8> {
        let count = 1 + self.below(3);
        let records = (0..count).map(|_| {
            let (content, epoch) = (20 + self.below(5) as u8, self.below(3) as u8);
            let length = self.pick(&[1, 2, 16, 40, 200]);
            let body = match (content, self.below(3)) {
                (20, 0) => vec![1],
                (21, 0) => vec![2, self.pick(&[0, 10, 40, 50, 80])],
                _ => self.noise(length),
            };
            self.record(content, epoch, &body)
        });
        records.collect::<Vec<_>>().concat()
    }

    fn record(&mut self, content: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
        let number: [u8; 8] = match self.below(3) {
            0 => [0, 0, 0, 0, 0, 0, 0, self.0.random()],
            1 => [0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            _ => self.0.random(),
        };
        let length = (body.len() as u16).to_be_bytes();
        [&[content, 254, 253, 0, epoch][..], &number[2..], &length, body].concat()
    }

    /// An invalid handshake message: a hello with wrong lengths, a fragment that overlaps or is longer than
    /// its message, a huge length, or plaintext application data; sometimes a valid hello.
    pub fn handshake(&mut self) -> Vec<u8> {
        let kind = self.pick(&HANDSHAKE_TYPES);
        let number = self.below(6) as u16;
        let length = self.pick(&[1, 12, 40, 200]);
        let body = self.noise(length);
        let real = body.len() as u32;
        let message = match self.below(8) {
            0 => {
                let length = self.pick(&[0, real - 1, real + 1]);
                handshake(kind, length, number, 0, real, &body)
            }
            1 => handshake(kind, real * 2, number, real / 2, real, &body),
            2 => handshake(kind, real, number, real, real, &body),
            3 => handshake(kind, 0x00FF_FFFF, number, 0, real, &body),
            4 => handshake(kind, 0x00FF_FFFF, number, 0x00FF_FFFF, 0x00FF_FFFF, &body),
            5 => {
                let hello = self.hello();
                handshake(1, hello.len() as u32, number, 0, hello.len() as u32, &hello)
            }
            6 => return self.record(23, 0, &body),
            _ => {
                let mut hello = self.hello();
                let at = self.pick(&[34, 35, 36, 37, hello.len() - 2, hello.len() - 1]);
                hello[at] = 0xFF;
                handshake(1, hello.len() as u32, number, 0, hello.len() as u32, &hello)
            }
        };
        self.record(22, 0, &message)
    }

    /// A client's hello without extensions (RFC 6347 §4.2.1): no session, no cookie, one cipher suite.
    fn hello(&mut self) -> Vec<u8> {
        [&[254, 253][..], &self.noise(32), &[0, 0, 0, 2, 0xC0, 0x2B, 1, 0]].concat()
    }

    fn ssrc(&mut self) -> [u8; 4] {
        let random = self.0.random();
        self.pick(&[[0, 0, 0, 1], random])
    }

    fn rtp(&mut self) -> Vec<u8> {
        let (first, kind) = (self.pick(&[0x80, 0x90, 0xA0, 0xBF]), 96 + self.below(32) as u8);
        let marker = self.pick(&[0, 0x80]);
        let (ssrc, length) = (self.ssrc(), self.pick(&[0, 10, 26, 200, 1200]));
        let (head, body) = (self.noise(6), self.noise(length));
        [&[first, marker | kind][..], &head, &ssrc, &body].concat()
    }

    fn rtcp(&mut self) -> Vec<u8> {
        let (first, kind) = (0x80 | self.below(32) as u8, 200 + self.below(8) as u8);
        let words = self.pick(&[1, 6, 12]);
        let (ssrc, body) = (self.ssrc(), self.noise(words * 4 - 4 + 14));
        [&[first, kind, 0, words as u8][..], &ssrc, &body].concat()
    }
}

/// A handshake message, or a fragment of one (RFC 6347 §4.2.2).
fn handshake(kind: u8, length: u32, number: u16, at: u32, part: u32, body: &[u8]) -> Vec<u8> {
    let three = |number: u32| number.to_be_bytes()[1..].to_vec();
    let header = [vec![kind], three(length), number.to_be_bytes().to_vec(), three(at), three(part)];
    [&header.concat()[..], body].concat()
}
