//! Selects the DTLS records that reach the crate.
//!
//! Repeated flights that were already answered (RFC 6347 §4.2.4): when the answer to a flight is lost, both ends
//! retransmit: the peer its flight, and this end, on its own timer, the answer. In `rtc-dtls` 0.21.1 a repeated
//! flight that contains nothing new stops that timer permanently (`handshaker.rs`, `wait`), and the handshake stalls:
//! in about half of these cases if the timers of both ends are equally long, and in all of them with a libwebrtc that
//! retransmits after 50 ms. So a repeated flight that has been answered is dropped.
//!
//! The last flight is different: its sender has finished, and repeats it only when the peer repeats the flight before
//! it, so that flight passes. If the last flight is lost, its sender has keys a second before the peer does, and the
//! peer cannot decrypt anything that it sends until then. So the first media waits for data or media from the peer,
//! which show that the peer has keys.
//!
//! Unauthenticated records: `rtc-dtls` 0.21.1 mistakes a `ChangeCipherSpec` of epoch 1, which is never encrypted, for
//! the start of epoch 2 and drops every later record (`crypto/crypto_gcm.rs:109`, `conn/mod.rs:794`), and aborts a
//! handshake on any plaintext alert, undecodable record or application data of epoch 0 (`conn/mod.rs:735` to `:840`).
//! RFC 6347 §4.1.2.7 recommends dropping such records. Once the peer has shown that it has keys, nothing in plaintext
//! passes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::vitals::LivenessMonitor;
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

/// Maximum wait for the peer's first data: if our last flight is lost, the peer repeats its own after a second, and
/// its first message may get lost as well.
pub(super) const REMOTE_KEYS_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of epoch 1 datagrams accepted before this end has keys: the crate queues them without a limit
/// (`rtc-dtls` 0.21.1, `conn/mod.rs:606`). A peer that finishes first sends a few.
const MAX_EARLY: u16 = 64;

/// Length of a record header: type, version, epoch, sequence number, length (RFC 6347 §4.1).
const RECORD_HEADER: usize = 13;

/// Progress of our end of the handshake; 0 means that nothing has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Progress {
    /// As the server, flight 4: the client's hello with the cookie has been answered.
    ServerHello = 1,
    /// As the client, flight 5: the server's flight 4 has been answered.
    KeyExchange,
    /// Application data: the handshake has finished.
    Data,
}

/// Filters the DTLS records of one peer connection, shared by its sockets.
#[derive(Debug)]
pub(super) struct DtlsReplayFilter {
    sent: AtomicU8,
    /// Set once the peer has sent data or media: it has keys.
    remote_keys: watch::Sender<bool>,
    /// Datagrams of epoch 1 that arrived before this end had keys.
    early: AtomicU16,
    liveness: Arc<LivenessMonitor>,
}

impl DtlsReplayFilter {
    pub(super) fn new(liveness: Arc<LivenessMonitor>) -> Self {
        Self {
            sent: AtomicU8::default(),
            remote_keys: watch::Sender::new(false),
            early: AtomicU16::default(),
            liveness,
        }
    }

    /// Waits until the peer has shown that it has keys. The wait is bounded, because the peer may have nothing to
    /// send.
    pub(super) async fn wait_for_remote_keys(&self, timeout: Duration) {
        let mut keys = self.remote_keys.subscribe();
        if tokio::time::timeout(timeout, keys.wait_for(|keys| *keys)).await.is_err() {
            tracing::debug!("the peer has sent nothing yet: media is sent anyway");
            self.remote_keys.send_replace(true);
        }
    }

    /// Whether this end has keys: it has sent data with them.
    pub(super) fn has_keys(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == Progress::Data as u8
    }

    /// Records the handshake progress that an outgoing datagram shows.
    pub(super) fn sent(&self, datagram: &[u8]) {
        if self.sent.load(Ordering::Relaxed) == Progress::Data as u8 {
            return;
        }
        let Some(dtls) = payload(datagram).filter(|payload| is_dtls(payload)) else { return };
        for record in records(dtls).map_while(|record| record) {
            let progress = match (record.content, record.handshake()) {
                (HANDSHAKE, Some(SERVER_HELLO)) => Progress::ServerHello,
                (HANDSHAKE, Some(CLIENT_KEY_EXCHANGE)) => Progress::KeyExchange,
                (APPLICATION_DATA, _) => Progress::Data,
                _ => continue,
            };
            if self.sent.fetch_max(progress as u8, Ordering::Relaxed) < progress as u8 {
                self.liveness.handshake_advanced();
            }
        }
    }

    /// Whether a received datagram may reach the crate.
    pub(super) fn passes(&self, datagram: &[u8]) -> bool {
        let Some(payload) = payload(datagram) else { return true };
        if is_media(payload) {
            self.peer_has_keys();
        }
        if !is_dtls(payload) {
            return true;
        }
        for record in records(payload) {
            if !record.is_some_and(|record| self.takes(&record)) {
                return false;
            }
        }
        true
    }

    fn takes(&self, record: &Record<'_>) -> bool {
        match (record.content, record.epoch) {
            (CHANGE_CIPHER_SPEC, 0) => record.body == [1] && !self.liveness.peer_has_keys(),
            (ALERT, 0) => {
                if let [level, description] = record.body {
                    self.liveness.alert_ignored(*level, *description);
                }
                false
            }
            (HANDSHAKE, 0) => !self.liveness.peer_has_keys() && !self.is_answered(record),
            (APPLICATION_DATA, 1) => {
                self.peer_has_keys();
                self.is_timely()
            }
            (ALERT | HANDSHAKE, 1) => self.is_timely(),
            _ => false,
        }
    }

    fn peer_has_keys(&self) {
        self.remote_keys.send_if_modified(|keys| !std::mem::replace(keys, true));
    }

    /// Whether the record is within the number that the crate may have to queue until it has keys.
    fn is_timely(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == Progress::Data as u8
            || self.liveness.peer_has_keys()
            || self.early.fetch_add(1, Ordering::Relaxed) < MAX_EARLY
            || {
                self.early.fetch_sub(1, Ordering::Relaxed);
                false
            }
    }

    /// Whether the flight of this handshake message has already been answered.
    fn is_answered(&self, record: &Record<'_>) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        let answered = match record.handshake() {
            None => false,
            Some(CLIENT_HELLO) => sent == Progress::ServerHello as u8,
            // In plaintext, the server sends nothing but flight 4 after its first hello.
            Some(_) => sent == Progress::KeyExchange as u8,
        };
        if answered {
            tracing::debug!("a DTLS flight was repeated: our answer is in flight or lost");
        }
        answered
    }
}

/// The payload of a datagram, including one from or to a relay (RFC 7983 §7, RFC 8656 §11 and §12).
pub(super) fn payload(datagram: &[u8]) -> Option<&[u8]> {
    match datagram.first()? {
        0x40..=0x4F => datagram.get(4..),
        0..=3 => Message::parse(datagram)
            .filter(|message| message.class == Class::Indication)?
            .get(attr::DATA),
        _ => Some(datagram),
    }
}

/// Whether a datagram carries SRTP or SRTCP, directly or through a relay.
pub(super) fn carries_media(datagram: &[u8]) -> bool {
    payload(datagram).is_some_and(is_media)
}

fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(20..=63))
}

/// Whether this is SRTP or SRTCP.
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
    /// The type of a plaintext handshake message.
    fn handshake(&self) -> Option<u8> {
        self.body.first().copied().filter(|_| self.content == HANDSHAKE && self.epoch == 0)
    }
}

/// The records of a datagram. A record that is malformed by the crate's own rules (`rtc-dtls` 0.21.1,
/// `record_layer/mod.rs:103`: no record is empty) yields `None` and ends the iteration.
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

    fn new() -> DtlsReplayFilter {
        DtlsReplayFilter::new(Arc::new(LivenessMonitor::new()))
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
    fn the_server_accepts_the_hello_until_it_has_answered() {
        let filter = new();
        // HelloVerifyRequest keeps no state: the hello without a cookie may be repeated.
        filter.sent(&datagram(&[(HANDSHAKE, 0, 3)]));
        assert!(filter.passes(&hello()) && filter.passes(&hello()));
        filter.sent(&flight_4());
        assert!(!filter.passes(&hello()));
        assert!(filter.passes(&flight_5()) && filter.passes(&flight_5()));
    }

    #[test]
    fn the_client_accepts_flight_4_until_it_has_answered() {
        let filter = new();
        filter.sent(&hello());
        assert!(filter.passes(&flight_4()) && filter.passes(&flight_4()));
        filter.sent(&flight_5());
        assert!(!filter.passes(&flight_4()));
        assert!(!filter.passes(&datagram(&[(HANDSHAKE, 0, 11)])), "part of the flight");
        // The server's last flight passes, and so does everything other than plaintext handshake messages.
        assert!(filter.passes(&datagram(&[(20, 0, 1), (HANDSHAKE, 1, 9)])));
        assert!(filter.passes(&datagram(&[(APPLICATION_DATA, 1, 9)])));
        for other in [&[][..], &[0x80; 40], &[0, 1, 0, 0]] {
            assert!(filter.passes(other), "{other:?}");
        }
    }

    #[test]
    fn unauthenticated_records_do_not_pass() {
        let filter = new();
        let forged = [20, 254, 253, 0, 1, 0, 0, 0, 0, 7, 208, 0, 1, 1];
        let alert = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
        let genuine = [20, 254, 253, 0, 0, 0, 0, 0, 0, 7, 208, 0, 1, 1];
        let plain_data = datagram(&[(APPLICATION_DATA, 0, 9)]);
        let later_epoch = datagram(&[(HANDSHAKE, 2, 9)]);
        let heartbeat = datagram(&[(24, 1, 9)]);
        let malformed = [[22; 14].to_vec(), vec![22], hello()[..15].to_vec()];
        let empty = [[22, 254, 253].as_slice(), &[0; 10]].concat();
        let behind = [&hello()[..], &forged].concat();
        for dropped in [&forged[..], &alert, &plain_data, &later_epoch, &heartbeat, &empty, &behind]
            .into_iter()
            .chain(malformed.iter().map(Vec::as_slice))
        {
            assert!(!filter.passes(dropped), "{dropped:?}");
        }
        assert_eq!(filter.liveness.vitals().alert, Some((2, 40)));
        assert!(filter.passes(&genuine) && filter.passes(&hello()));
        // Once the peer has keys, nothing in plaintext passes.
        filter.liveness.data_received();
        for plain in [&genuine[..], &hello(), &flight_4(), &flight_5()] {
            assert!(!filter.passes(plain), "{plain:?}");
        }
        assert!(filter.passes(&datagram(&[(ALERT, 1, 1), (APPLICATION_DATA, 1, 9)])));
    }

    #[test]
    fn records_before_keys_are_bounded() {
        let filter = new();
        let early = datagram(&[(HANDSHAKE, 1, 9)]);
        let passed = (0..1000).filter(|_| filter.passes(&early)).count();
        assert_eq!(passed, usize::from(MAX_EARLY));
        filter.liveness.data_received();
        assert!(filter.passes(&early));
    }

    #[tokio::test]
    async fn data_or_media_shows_that_the_peer_has_keys() {
        let (data, media) = (datagram(&[(APPLICATION_DATA, 1, 9)]), [0x80; 40].to_vec());
        let channel = |data: &[u8]| [&[0x40, 0, 0, data.len() as u8][..], data].concat();
        for shows in [&data, &media, &channel(&data), &channel(&media)] {
            let filter = new();
            for other in [&flight_5(), &datagram(&[(HANDSHAKE, 1, 9)]), &vec![0, 1, 0, 0]] {
                filter.passes(other);
                assert!(!*filter.remote_keys.borrow(), "{other:?}");
            }
            filter.passes(shows);
            filter.wait_for_remote_keys(Duration::MAX).await;
        }
        // The wait for a peer that has nothing to send happens only once.
        let silent = new();
        silent.wait_for_remote_keys(Duration::from_millis(1)).await;
        silent.wait_for_remote_keys(Duration::MAX).await;
    }

    #[test]
    fn relayed_datagrams_are_treated_alike() {
        let indication = |data: &[u8]| {
            Builder::new(Class::Indication, method::DATA, [7; 12])
                .attribute(attr::DATA, data)
                .finish()
        };
        let channel = |data: &[u8]| [&[0x40, 0, 0, data.len() as u8][..], data].concat();
        for wrap in [&indication as &dyn Fn(&[u8]) -> Vec<u8>, &channel] {
            let filter = new();
            assert!(filter.passes(&wrap(&hello())));
            filter.sent(&wrap(&flight_4()));
            assert!(!filter.passes(&wrap(&hello())));
            assert!(filter.passes(&wrap(&[0x80; 40])));
        }
    }
}
