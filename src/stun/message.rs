//! STUN messages (RFC 8489 §5, §14) with the TURN attributes of RFC 8656 §18: zero-copy reading, writing into
//! one buffer, MESSAGE-INTEGRITY (HMAC-SHA1) and FINGERPRINT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

/// Magic cookie (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Length of the STUN header, bytes.
pub const HEADER_BYTES: usize = 20;

/// Transaction id, which matches an answer to its request.
pub type TransactionId = [u8; 12];

/// Message methods (RFC 8489 §18.2, RFC 8656 §17).
pub mod method {
    /// Binding: asks for the sender's address, or checks connectivity.
    pub const BINDING: u16 = 0x001;
    /// Allocate: creates an allocation.
    pub const ALLOCATE: u16 = 0x003;
    /// Refresh: extends or ends an allocation.
    pub const REFRESH: u16 = 0x004;
    /// Send: an indication with data for a peer.
    pub const SEND: u16 = 0x006;
    /// Data: an indication with data from a peer.
    pub const DATA: u16 = 0x007;
    /// `CreatePermission`: permits peers.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// `ChannelBind`: binds a channel to a peer.
    pub const CHANNEL_BIND: u16 = 0x009;
}

/// Attribute types (RFC 8489 §18.3, RFC 8656 §18). Those below 0x8000 must be understood.
pub mod attr {
    /// MAPPED-ADDRESS (RFC 8489 §14.1), from servers without XOR-MAPPED-ADDRESS.
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    /// CHANGE-REQUEST (RFC 5780 §7.2).
    pub const CHANGE_REQUEST: u16 = 0x0003;
    /// USERNAME (RFC 8489 §14.3).
    pub const USERNAME: u16 = 0x0006;
    /// MESSAGE-INTEGRITY (RFC 8489 §14.5).
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    /// ERROR-CODE (RFC 8489 §14.8).
    pub const ERROR_CODE: u16 = 0x0009;
    /// UNKNOWN-ATTRIBUTES (RFC 8489 §14.13).
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    /// CHANNEL-NUMBER (RFC 8656 §18.1).
    pub const CHANNEL_NUMBER: u16 = 0x000C;
    /// LIFETIME (RFC 8656 §18.2).
    pub const LIFETIME: u16 = 0x000D;
    /// XOR-PEER-ADDRESS (RFC 8656 §18.3).
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    /// DATA (RFC 8656 §18.4).
    pub const DATA: u16 = 0x0013;
    /// REALM (RFC 8489 §14.9).
    pub const REALM: u16 = 0x0014;
    /// NONCE (RFC 8489 §14.10).
    pub const NONCE: u16 = 0x0015;
    /// XOR-RELAYED-ADDRESS (RFC 8656 §18.5).
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    /// REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6).
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    /// EVEN-PORT (RFC 8656 §18.7).
    pub const EVEN_PORT: u16 = 0x0018;
    /// REQUESTED-TRANSPORT (RFC 8656 §18.8).
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    /// MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6).
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    /// XOR-MAPPED-ADDRESS (RFC 8489 §14.2).
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    /// RESERVATION-TOKEN (RFC 8656 §18.10).
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    /// PRIORITY (RFC 8445 §16.1).
    pub const PRIORITY: u16 = 0x0024;
    /// USE-CANDIDATE (RFC 8445 §16.1).
    pub const USE_CANDIDATE: u16 = 0x0025;
    /// RESPONSE-PORT (RFC 5780 §7.5).
    pub const RESPONSE_PORT: u16 = 0x0027;
    /// FINGERPRINT (RFC 8489 §14.7).
    pub const FINGERPRINT: u16 = 0x8028;
    /// RESPONSE-ORIGIN (RFC 5780 §7.3).
    pub const RESPONSE_ORIGIN: u16 = 0x802B;
    /// OTHER-ADDRESS (RFC 5780 §7.4).
    pub const OTHER_ADDRESS: u16 = 0x802C;
}

/// Message class (RFC 8489 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A message that requires an answer.
    Request,
    /// A message without an answer.
    Indication,
    /// The answer to a request that succeeded.
    Success,
    /// The answer to a request that failed.
    Error,
}

/// CHANGE-REQUEST (RFC 5780 §7.2): selects the socket that sends the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ChangeRequest {
    /// Whether to answer from the server's other IP address.
    pub ip: bool,
    /// Whether to answer from the server's other port.
    pub port: bool,
}

const CHANGE_IP: u32 = 0x4;
const CHANGE_PORT: u32 = 0x2;

/// A STUN message, read from one datagram or one TCP frame.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Whether it is a request, an indication or an answer.
    pub class: Class,
    /// Its method, one of [`method`].
    pub method: u16,
    /// The id shared by a request and its answer.
    pub transaction: TransactionId,
    raw: &'a [u8],
}

/// One attribute of a [`Message`].
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// Its type, one of [`attr`].
    pub kind: u16,
    /// Its value without padding.
    pub value: &'a [u8],
    /// Offset of the attribute in the message, bytes.
    pub offset: usize,
}

impl<'a> Message<'a> {
    /// Reads a message. `None` if it is not STUN, its lengths are inconsistent, or its FINGERPRINT is wrong.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let kind = read_u16(raw, 0)?;
        let length = usize::from(read_u16(raw, 2)?);
        if kind & 0xC000 != 0
            || length % 4 != 0
            || raw.len() != HEADER_BYTES + length
            || read_u32(raw, 4)? != MAGIC_COOKIE
        {
            return None;
        }
        let message = Self {
            class: match (kind >> 7 & 2) | (kind >> 4 & 1) {
                0 => Class::Request,
                1 => Class::Indication,
                2 => Class::Success,
                _ => Class::Error,
            },
            method: (kind & 0x000F) | (kind >> 1 & 0x0070) | (kind >> 2 & 0x0F80),
            transaction: raw[8..HEADER_BYTES].try_into().ok()?,
            raw,
        };
        let mut end = HEADER_BYTES;
        for attribute in message.every_attribute() {
            end = attribute.offset + 4 + padded(attribute.value.len());
            if attribute.kind == attr::FINGERPRINT
                && attribute.value != fingerprint(&raw[..attribute.offset]).to_be_bytes()
            {
                return None;
            }
        }
        (end == raw.len()).then_some(message)
    }

    fn every_attribute(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let raw = self.raw;
        let mut offset = HEADER_BYTES;
        std::iter::from_fn(move || {
            let kind = read_u16(raw, offset)?;
            let length = usize::from(read_u16(raw, offset + 2)?);
            let value = raw.get(offset + 4..offset + 4 + length)?;
            let attribute = Attribute { kind, value, offset };
            offset += 4 + padded(length);
            (offset <= raw.len()).then_some(attribute)
        })
    }

    /// The attributes, without those after MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256, which must be ignored
    /// (RFC 8489 §14.5, §14.6).
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let mut ended = false;
        self.every_attribute().take_while(move |attribute| {
            let take = !ended;
            ended |=
                matches!(attribute.kind, attr::MESSAGE_INTEGRITY | attr::MESSAGE_INTEGRITY_SHA256);
            take
        })
    }

    /// Whether the message has a FINGERPRINT; if so, its answer must have one too (RFC 8489 §7.3).
    #[must_use]
    pub fn has_fingerprint(&self) -> bool {
        self.every_attribute().any(|attribute| attribute.kind == attr::FINGERPRINT)
    }

    /// The value of the first attribute of this type.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|a| a.kind == kind).map(|a| a.value)
    }

    /// The value as text, if it is UTF-8.
    #[must_use]
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?).ok()
    }

    /// The value as a 32-bit number.
    #[must_use]
    pub fn number(&self, kind: u16) -> Option<u32> {
        read_u32(self.get(kind)?, 0)
    }

    /// The first address of this XOR-…-ADDRESS type.
    #[must_use]
    pub fn address(&self, kind: u16) -> Option<SocketAddr> {
        read_xor_address(self.get(kind)?, &self.transaction)
    }

    /// The first address of this type, which is not XOR-encoded, such as OTHER-ADDRESS.
    #[must_use]
    pub fn plain_address(&self, kind: u16) -> Option<SocketAddr> {
        read_plain_address(self.get(kind)?)
    }

    /// Our address as the server sees it: XOR-MAPPED-ADDRESS or, without that, MAPPED-ADDRESS.
    #[must_use]
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        self.address(attr::XOR_MAPPED_ADDRESS).or_else(|| self.plain_address(attr::MAPPED_ADDRESS))
    }

    /// The value of CHANGE-REQUEST (RFC 5780 §7.2).
    #[must_use]
    pub fn change_request(&self) -> Option<ChangeRequest> {
        let flags = self.number(attr::CHANGE_REQUEST)?;
        Some(ChangeRequest { ip: flags & CHANGE_IP != 0, port: flags & CHANGE_PORT != 0 })
    }

    /// The code in ERROR-CODE.
    #[must_use]
    pub fn error_code(&self) -> Option<u16> {
        let value = self.get(attr::ERROR_CODE)?;
        Some(u16::from(value.get(2)? & 7) * 100 + u16::from(*value.get(3)?))
    }

    /// The reason phrase in ERROR-CODE, or the standard one if the server omits it. It is unmodified text from
    /// the server: escape it before displaying it.
    #[must_use]
    pub fn error_reason(&self) -> String {
        let words = self.get(attr::ERROR_CODE).and_then(|value| value.get(4..)).unwrap_or_default();
        match self.error_code() {
            Some(code) if words.is_empty() => reason_phrase(code).to_owned(),
            _ => String::from_utf8_lossy(words).into_owned(),
        }
    }

    /// The attributes that must be understood but are not in `known`, for a 420 answer.
    #[must_use]
    pub fn unknown(&self, known: &[u16]) -> Vec<u16> {
        self.attributes().map(|a| a.kind).filter(|k| *k < 0x8000 && !known.contains(k)).collect()
    }

    /// A copy of this request with another transaction id, authenticated with `key` and equally long. `None` if
    /// the request has no MESSAGE-INTEGRITY, or if the copy's length differs.
    #[must_use]
    pub fn renewed(&self, transaction: TransactionId, key: &[u8]) -> Option<Vec<u8>> {
        let mut copy = Builder::new(self.class, self.method, transaction);
        let mut authenticated = false;
        for attribute in self.attributes() {
            if attribute.kind == attr::MESSAGE_INTEGRITY {
                authenticated = true;
                copy = copy.integrity(key);
            } else {
                copy = copy.attribute(attribute.kind, attribute.value);
            }
        }
        if self.has_fingerprint() {
            copy = copy.fingerprint();
        }
        copy.whole().filter(|copy| authenticated && copy.len() == self.raw.len())
    }

    /// Whether MESSAGE-INTEGRITY is present and was computed with `key`; compared in constant time.
    #[must_use]
    pub fn verify(&self, key: &[u8]) -> bool {
        let Some(integrity) = self.attributes().find(|a| a.kind == attr::MESSAGE_INTEGRITY) else {
            return false;
        };
        integrity_mac(&self.raw[..integrity.offset], key)
            .is_some_and(|mac| mac.verify_slice(integrity.value).is_ok())
    }
}

/// Reads an XOR-…-ADDRESS value (RFC 8489 §14.2).
#[must_use]
pub fn read_xor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let port = read_u16(value, 2)? ^ (MAGIC_COOKIE >> 16) as u16;
    let ip = match (value.get(1)?, value.len()) {
        (1, 8) => IpAddr::V4(Ipv4Addr::from(read_u32(value, 4)? ^ MAGIC_COOKIE)),
        (2, 20) => {
            let bits = u128::from_be_bytes(value[4..].try_into().ok()?);
            IpAddr::V6(Ipv6Addr::from(bits ^ xor_mask(transaction)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Reads an address that is not XOR-encoded (RFC 8489 §14.1).
#[must_use]
pub fn read_plain_address(value: &[u8]) -> Option<SocketAddr> {
    let port = read_u16(value, 2)?;
    let ip = match (value.get(1)?, value.len()) {
        (1, 8) => IpAddr::V4(Ipv4Addr::from(read_u32(value, 4)?)),
        (2, 20) => IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(value[4..].try_into().ok()?))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn xor_mask(transaction: &TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    u128::from_be_bytes(mask)
}

/// Writes one message. It always holds a complete message: an attribute that exceeds the 16-bit length fields is
/// omitted, never truncated.
#[derive(Debug)]
pub struct Builder {
    raw: Vec<u8>,
    transaction: TransactionId,
    left_out: bool,
}

impl Builder {
    /// Starts a message.
    #[must_use]
    pub fn new(class: Class, method: u16, transaction: TransactionId) -> Self {
        let class = match class {
            Class::Request => 0x0000,
            Class::Indication => 0x0010,
            Class::Success => 0x0100,
            Class::Error => 0x0110,
        };
        let kind = class | (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2;
        let mut raw = Vec::with_capacity(128);
        raw.extend_from_slice(&kind.to_be_bytes());
        raw.extend_from_slice(&[0, 0]);
        raw.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        raw.extend_from_slice(&transaction);
        Self { raw, transaction, left_out: false }
    }

    /// Starts the answer to `request`.
    #[must_use]
    pub fn answer(class: Class, request: &Message<'_>) -> Self {
        Self::new(class, request.method, request.transaction)
    }

    /// Adds an attribute unless it would make the message too long: see [`Builder::whole`].
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let (Ok(length), Some(total)) = (u16::try_from(value.len()), self.length_with(value.len()))
        else {
            self.left_out = true;
            return self;
        };
        self.raw.extend_from_slice(&kind.to_be_bytes());
        self.raw.extend_from_slice(&length.to_be_bytes());
        self.raw.extend_from_slice(value);
        self.raw.resize(padded(self.raw.len()), 0);
        self.raw[2..4].copy_from_slice(&total.to_be_bytes());
        self
    }

    /// The header's length field with one more attribute of this many bytes; none if it would overflow.
    fn length_with(&self, value: usize) -> Option<u16> {
        u16::try_from(self.raw.len() - HEADER_BYTES + 4 + padded(value)).ok()
    }

    /// Adds an XOR-encoded address.
    #[must_use]
    pub fn address(self, kind: u16, address: SocketAddr) -> Self {
        let mut value = Vec::with_capacity(20);
        value.extend_from_slice(&[0, if address.is_ipv4() { 1 } else { 2 }]);
        value.extend_from_slice(&(address.port() ^ (MAGIC_COOKIE >> 16) as u16).to_be_bytes());
        let mask = xor_mask(&self.transaction);
        match address.ip() {
            IpAddr::V4(ip) => value.extend((ip.to_bits() ^ MAGIC_COOKIE).to_be_bytes()),
            IpAddr::V6(ip) => value.extend((ip.to_bits() ^ mask).to_be_bytes()),
        }
        self.attribute(kind, &value)
    }

    /// Adds an address that is not XOR-encoded.
    #[must_use]
    pub fn plain_address(self, kind: u16, address: SocketAddr) -> Self {
        let mut value = Vec::with_capacity(20);
        value.extend_from_slice(&[0, if address.is_ipv4() { 1 } else { 2 }]);
        value.extend_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => value.extend(ip.octets()),
            IpAddr::V6(ip) => value.extend(ip.octets()),
        }
        self.attribute(kind, &value)
    }

    /// Adds CHANGE-REQUEST.
    #[must_use]
    pub fn change_request(self, change: ChangeRequest) -> Self {
        let ip = if change.ip { CHANGE_IP } else { 0 };
        let port = if change.port { CHANGE_PORT } else { 0 };
        self.attribute(attr::CHANGE_REQUEST, &(ip | port).to_be_bytes())
    }

    /// Adds ERROR-CODE.
    #[must_use]
    pub fn error(self, code: u16, reason: &str) -> Self {
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(attr::ERROR_CODE, &value)
    }

    /// Adds MESSAGE-INTEGRITY; only FINGERPRINT may follow.
    #[must_use]
    pub fn integrity(mut self, key: &[u8]) -> Self {
        let Some(mac) = integrity_mac(&self.raw, key) else {
            self.left_out = true;
            return self;
        };
        let mac: [u8; 20] = mac.finalize().into_bytes().into();
        self.attribute(attr::MESSAGE_INTEGRITY, &mac)
    }

    /// Adds FINGERPRINT, which is always last.
    #[must_use]
    pub fn fingerprint(mut self) -> Self {
        let Some(total) = self.length_with(4) else {
            self.left_out = true;
            return self;
        };
        // The CRC covers a length that includes the attribute itself.
        self.raw[2..4].copy_from_slice(&total.to_be_bytes());
        let crc = fingerprint(&self.raw);
        self.attribute(attr::FINGERPRINT, &crc.to_be_bytes())
    }

    /// The bytes of a message whose attributes have known lengths.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.raw
    }

    /// The bytes of a message whose attributes may have any length; `None` if one was omitted.
    #[must_use]
    pub fn whole(self) -> Option<Vec<u8>> {
        (!self.left_out).then_some(self.raw)
    }
}

/// HMAC over everything before the attribute, with a header length that includes the attribute itself and
/// nothing after it (RFC 8489 §14.5); none if that length would overflow.
fn integrity_mac(before: &[u8], key: &[u8]) -> Option<Hmac<Sha1>> {
    let length = u16::try_from(before.len() - HEADER_BYTES + 24).ok()?;
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(&before[..2]);
    mac.update(&length.to_be_bytes());
    mac.update(&before[4..]);
    Some(mac)
}

/// The standard reason phrase of an error code (RFC 8489 §14.8, RFC 8656 §19); empty for unknown codes.
#[must_use]
pub const fn reason_phrase(code: u16) -> &'static str {
    match code {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        420 => "Unknown Attribute",
        437 => "Allocation Mismatch",
        438 => "Stale Nonce",
        440 => "Address Family not Supported",
        441 => "Wrong Credentials",
        442 => "Unsupported Transport Protocol",
        443 => "Peer Address Family Mismatch",
        486 => "Allocation Quota Reached",
        508 => "Insufficient Capacity",
        _ => "",
    }
}

/// CRC-32 (ISO 3309) of everything before the attribute, XOR "STUN" (RFC 8489 §14.7).
fn fingerprint(before: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = index as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    let crc =
        before.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)]);
    !crc ^ 0x5354_554E
}

/// Key for MESSAGE-INTEGRITY with long-term credentials (RFC 8489 §9.2.2): MD5(username ":" realm ":" password).
#[must_use]
pub fn long_term_key(username: &str, realm: &str, password: &str) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(username);
    md5.update(b":");
    md5.update(realm);
    md5.update(b":");
    md5.update(password);
    md5.finalize().into()
}

/// Rounds up to a multiple of four, to which attributes and `ChannelData` over TCP are padded.
#[must_use]
pub const fn padded(length: usize) -> usize {
    (length + 3) & !3
}

fn read_u16(raw: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(raw.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(raw: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(raw.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
