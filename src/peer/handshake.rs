//! Which DTLS records reach the crate.
//!
//! Flights that come again although they were answered (RFC 6347 §4.2.4): when the answer to a flight is lost,
//! both ends retransmit, the peer its flight, this end, by its own timer, the answer. In `rtc-dtls` 0.21.1 a
//! repeated flight that brings nothing new stops that timer for good (`handshaker.rs`, `wait`), and the
//! handshake stands still: with timers of the same length on both ends in about every second such case, with a
//! libwebrtc that repeats after 50 ms in each. So a flight that was answered is dropped.
//!
//! The last flight is another matter: its sender is done, and sends it again only when the peer repeats the one
//! before. That passes. When it is lost, its sender has keys a second before the peer has: what it sends in the
//! meantime, nobody can read. So the first media waits for data or media of the peer, which show that it has
//! keys.
//!
//! Records that nobody authenticated: `rtc-dtls` 0.21.1 takes a `ChangeCipherSpec` of epoch 1, which is never
//! encrypted, for the start of epoch 2 and drops every later record (`crypto/crypto_gcm.rs:109`,
//! `conn/mod.rs:794`), and ends a handshake on any plaintext alert, undecodable record or application data of
//! epoch 0 (`conn/mod.rs:735` to `:840`). Dropping such records is what RFC 6347 §4.1.2.7 wants. Once the peer
//! has shown that it has keys, nothing in plaintext passes at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::vitals::Monitor;
use crate::stun::message::{Class, Message, attr};

/// Content types of records (RFC 5246 §6.2.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Handshake types (RFC 5246 §7.4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CLIENT_KEY_EXCHANGE: u8 = 16;

/// How long the other side's first data is waited for: when our last flight is lost, it repeats its own
/// after a second, and its first message may get lost, too.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Datagrams of epoch 1 that may come before this end has keys: the crate queues them without a limit
/// (`rtc-dtls` 0.21.1, `conn/mod.rs:606`). A peer that is done first sends a few.
const MAX_EARLY: u16 = 64;

/// Length of a record's header: type, version, epoch, sequence number, length (RFC 6347 §4.1).
const RECORD_HEADER: usize = 13;

/// How far our side of the handshake is; 0 is nothing that answers anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Sent {
    /// As the server, flight 4: the client's hello with the cookie is answered.
    ServerHello = 1,
    /// As the client, flight 5: the server's flight 4 is answered.
    KeyExchange,
    /// Data: the handshake is over.
    Data,
}

/// The handshake of one peer connection, as its sockets see it.
#[derive(Debug)]
pub(super) struct Handshake {
    sent: AtomicU8,
    /// The peer has sent data or media: it has keys.
    heard: watch::Sender<bool>,
    /// Datagrams of epoch 1 that came before this end had keys.
    early: AtomicU16,
    monitor: Arc<Monitor>,
}

impl Handshake {
    pub(super) fn new(monitor: Arc<Monitor>) -> Self {
        Self {
            sent: AtomicU8::default(),
            heard: watch::Sender::new(false),
            early: AtomicU16::default(),
            monitor,
        }
    }

    /// Waits until the peer has shown that it has keys; not forever, for it may have nothing to say.
    pub(super) async fn heard(&self, within: Duration) {
        let mut heard = self.heard.subscribe();
        if tokio::time::timeout(within, heard.wait_for(|heard| *heard)).await.is_err() {
            tracing::debug!("the peer has sent nothing yet: media is sent all the same");
            self.heard.send_replace(true);
        }
    }

    /// Whether there are keys: data was sent with them.
    pub(super) fn has_keys(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == Sent::Data as u8
    }

    /// A datagram of ours.
    pub(super) fn sent(&self, datagram: &[u8]) {
        if self.sent.load(Ordering::Relaxed) == Sent::Data as u8 {
            return;
        }
        let Some(dtls) = inner(datagram).filter(|inner| is_dtls(inner)) else { return };
        for record in records(dtls).map_while(|record| record) {
            let sent = match (record.content, record.handshake()) {
                (HANDSHAKE, Some(SERVER_HELLO)) => Sent::ServerHello,
                (HANDSHAKE, Some(CLIENT_KEY_EXCHANGE)) => Sent::KeyExchange,
                (APPLICATION_DATA, _) => Sent::Data,
                _ => continue,
            };
            if self.sent.fetch_max(sent as u8, Ordering::Relaxed) < sent as u8 {
                self.monitor.handshake_advanced();
            }
        }
    }

    /// Whether a datagram that came is for the crate.
    pub(super) fn passes(&self, datagram: &[u8]) -> bool {
        let Some(inner) = inner(datagram) else { return true };
        if is_media(inner) {
            self.peer_has_keys();
        }
        if !is_dtls(inner) {
            return true;
        }
        for record in records(inner) {
            if !record.is_some_and(|record| self.takes(&record)) {
                return false;
            }
        }
        true
    }

    fn takes(&self, record: &Record<'_>) -> bool {
        match (record.content, record.epoch) {
            (CHANGE_CIPHER_SPEC, 0) => record.body == [1] && !self.monitor.peer_has_keys(),
            (ALERT, 0) => {
                if let [level, description] = record.body {
                    self.monitor.alert_ignored(*level, *description);
                }
                false
            }
            (HANDSHAKE, 0) => !self.monitor.peer_has_keys() && !self.is_answered(record),
            (APPLICATION_DATA, 1) => {
                self.peer_has_keys();
                self.is_timely()
            }
            (ALERT | HANDSHAKE, 1) => self.is_timely(),
            _ => false,
        }
    }

    fn peer_has_keys(&self) {
        self.heard.send_if_modified(|heard| !std::mem::replace(heard, true));
    }

    /// Not one too many of those that the crate has to keep until it has keys.
    fn is_timely(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == Sent::Data as u8
            || self.monitor.peer_has_keys()
            || self.early.fetch_add(1, Ordering::Relaxed) < MAX_EARLY
            || {
                self.early.fetch_sub(1, Ordering::Relaxed);
                false
            }
    }

    /// The flight of this handshake message was answered already.
    fn is_answered(&self, record: &Record<'_>) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        let answered = match record.handshake() {
            None => false,
            Some(CLIENT_HELLO) => sent == Sent::ServerHello as u8,
            // Before encryption the server sends nothing but flight 4 after its first hello.
            Some(_) => sent == Sent::KeyExchange as u8,
        };
        if answered {
            tracing::debug!("a DTLS flight came again: our answer is on its way or lost");
        }
        answered
    }
}

/// What a datagram holds, also one from or to a relay (RFC 7983 §7, RFC 8656 §11 and §12).
pub(super) fn inner(datagram: &[u8]) -> Option<&[u8]> {
    match datagram.first()? {
        0x40..=0x4F => datagram.get(4..),
        0..=3 => Message::parse(datagram)
            .filter(|message| message.class == Class::Indication)?
            .get(attr::DATA),
        _ => Some(datagram),
    }
}

/// Whether a datagram carries SRTP or SRTCP, also one from a relay.
pub(super) fn carries_media(datagram: &[u8]) -> bool {
    inner(datagram).is_some_and(is_media)
}

fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(20..=63))
}

/// SRTP or SRTCP.
fn is_media(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(128..=191))
}

/// A record (RFC 6347 §4.1).
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    content: u8,
    epoch: u16,
    body: &'a [u8],
}

impl Record<'_> {
    /// The type of a handshake message in plaintext.
    fn handshake(&self) -> Option<u8> {
        self.body.first().copied().filter(|_| self.content == HANDSHAKE && self.epoch == 0)
    }
}

/// The records of a datagram; ends with a `None` where one is malformed, as the crate reads them
/// (`rtc-dtls` 0.21.1, `record_layer/mod.rs:103`: no record is empty).
fn records(dtls: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut rest = Some(dtls);
    std::iter::from_fn(move || {
        let dtls = rest.take().filter(|dtls| !dtls.is_empty())?;
        let record = dtls.first_chunk::<RECORD_HEADER>().and_then(|header| {
            let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
            let body = dtls.get(RECORD_HEADER..RECORD_HEADER + length)?;
            let epoch = u16::from_be_bytes([header[3], header[4]]);
            // DTLS 1.0 and 1.2 (RFC 6347 §4.1).
            let known = header[1] == 254 && !body.is_empty();
            known.then_some(Record { content: header[0], epoch, body })
        });
        if let Some(record) = record {
            rest = dtls.get(RECORD_HEADER + record.body.len()..);
        }
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::message::{Builder, method};

    /// A datagram of records: content type, epoch, first byte.
    fn datagram(records: &[(u8, u8, u8)]) -> Vec<u8> {
        let record = |&(content, epoch, kind): &(u8, u8, u8)| {
            let length = if content == CHANGE_CIPHER_SPEC { 1 } else { 3 };
            let header = [content, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 1, 0, length];
            [&header[..], &[kind, 0, 0][..usize::from(length)]].concat()
        };
        records.iter().flat_map(record).collect()
    }

    fn new() -> Handshake {
        Handshake::new(Arc::new(Monitor::new()))
    }

    fn hello() -> Vec<u8> {
        datagram(&[(HANDSHAKE, 0, CLIENT_HELLO)])
    }

    fn flight_4() -> Vec<u8> {
        datagram(&[(HANDSHAKE, 0, SERVER_HELLO), (HANDSHAKE, 0, 11), (HANDSHAKE, 0, 14)])
    }

    fn flight_5() -> Vec<u8> {
        datagram(&[(HANDSHAKE, 0, 11), (HANDSHAKE, 0, CLIENT_KEY_EXCHANGE), (20, 0, 1), (22, 1, 9)])
    }

    #[test]
    fn the_server_takes_the_hello_until_it_has_answered() {
        let handshake = new();
        // HelloVerifyRequest keeps no state: the hello without a cookie may come again.
        handshake.sent(&datagram(&[(HANDSHAKE, 0, 3)]));
        assert!(handshake.passes(&hello()) && handshake.passes(&hello()));
        handshake.sent(&flight_4());
        assert!(!handshake.passes(&hello()));
        assert!(handshake.passes(&flight_5()) && handshake.passes(&flight_5()));
    }

    #[test]
    fn the_client_takes_flight_4_until_it_has_answered() {
        let handshake = new();
        handshake.sent(&hello());
        assert!(handshake.passes(&flight_4()) && handshake.passes(&flight_4()));
        handshake.sent(&flight_5());
        assert!(!handshake.passes(&flight_4()));
        assert!(!handshake.passes(&datagram(&[(HANDSHAKE, 0, 11)])), "a part of it");
        // The server's last flight, and everything that is no handshake.
        assert!(handshake.passes(&datagram(&[(20, 0, 1), (HANDSHAKE, 1, 9)])));
        assert!(handshake.passes(&datagram(&[(APPLICATION_DATA, 1, 9)])));
        for other in [&[][..], &[0x80; 40], &[0, 1, 0, 0]] {
            assert!(handshake.passes(other), "{other:?}");
        }
    }

    #[test]
    fn records_that_nobody_authenticated_do_not_pass() {
        let handshake = new();
        let forged = [20, 254, 253, 0, 1, 0, 0, 0, 0, 7, 208, 0, 1, 1];
        let alert = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
        let genuine = [20, 254, 253, 0, 0, 0, 0, 0, 0, 7, 208, 0, 1, 1];
        let plain_data = datagram(&[(APPLICATION_DATA, 0, 9)]);
        let later_epoch = datagram(&[(HANDSHAKE, 2, 9)]);
        let heartbeat = datagram(&[(24, 1, 9)]);
        let malformed = [[22; 14].to_vec(), vec![22], hello()[..15].to_vec()];
        let empty = [[22, 254, 253].as_slice(), &[0; 10]].concat();
        let behind = [&hello()[..], &forged].concat();
        for refused in [&forged[..], &alert, &plain_data, &later_epoch, &heartbeat, &empty, &behind]
            .into_iter()
            .chain(malformed.iter().map(Vec::as_slice))
        {
            assert!(!handshake.passes(refused), "{refused:?}");
        }
        assert_eq!(handshake.monitor.vitals().alert, Some((2, 40)));
        assert!(handshake.passes(&genuine) && handshake.passes(&hello()));
        // Once the peer has keys, nothing in plaintext passes.
        handshake.monitor.data_received();
        for plain in [&genuine[..], &hello(), &flight_4(), &flight_5()] {
            assert!(!handshake.passes(plain), "{plain:?}");
        }
        assert!(handshake.passes(&datagram(&[(ALERT, 1, 1), (APPLICATION_DATA, 1, 9)])));
    }

    #[test]
    fn what_comes_before_there_are_keys_is_bounded() {
        let handshake = new();
        let early = datagram(&[(HANDSHAKE, 1, 9)]);
        let passed = (0..1000).filter(|_| handshake.passes(&early)).count();
        assert_eq!(passed, usize::from(MAX_EARLY));
        handshake.monitor.data_received();
        assert!(handshake.passes(&early));
    }

    #[tokio::test]
    async fn data_or_media_shows_that_the_peer_has_keys() {
        let (data, media) = (datagram(&[(APPLICATION_DATA, 1, 9)]), [0x80; 40].to_vec());
        let channel = |data: &[u8]| [&[0x40, 0, 0, data.len() as u8][..], data].concat();
        for shows in [&data, &media, &channel(&data), &channel(&media)] {
            let handshake = new();
            for other in [&flight_5(), &datagram(&[(HANDSHAKE, 1, 9)]), &vec![0, 1, 0, 0]] {
                handshake.passes(other);
                assert!(!*handshake.heard.borrow(), "{other:?}");
            }
            handshake.passes(shows);
            handshake.heard(Duration::MAX).await;
        }
        // Who has nothing to say is waited for once.
        let silent = new();
        silent.heard(Duration::from_millis(1)).await;
        silent.heard(Duration::MAX).await;
    }

    #[test]
    fn relays_make_no_difference() {
        let indication = |data: &[u8]| {
            Builder::new(Class::Indication, method::DATA, [7; 12])
                .attribute(attr::DATA, data)
                .finish()
        };
        let channel = |data: &[u8]| [&[0x40, 0, 0, data.len() as u8][..], data].concat();
        for wrap in [&indication as &dyn Fn(&[u8]) -> Vec<u8>, &channel] {
            let handshake = new();
            assert!(handshake.passes(&wrap(&hello())));
            handshake.sent(&wrap(&flight_4()));
            assert!(!handshake.passes(&wrap(&hello())));
            assert!(handshake.passes(&wrap(&[0x80; 40])));
        }
    }
}
