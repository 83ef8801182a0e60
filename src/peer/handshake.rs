//! DTLS flights that come again although they were answered (RFC 6347 §4.2.4).
//!
//! When the answer to a flight is lost, both sides send again: the other side its flight, this side,
//! by its own timer, the answer. In `rtc-dtls` 0.21.1 a repeated flight that brings nothing new stops that
//! timer for good (`handshaker.rs`, `wait`), and the handshake stands still: with timers of the same length
//! on both sides in about every second such case, with a libwebrtc that repeats after 50 ms in each. So a
//! flight that was answered is not heard again.
//!
//! The last flight is another matter: its sender is done, and sends it again only when the other side
//! repeats the one before. That is heard. When it is lost, its sender has keys a second before the other
//! side has: what it sends meanwhile, nobody can read. So the first media waits for data or media of the
//! other side, which show that it has keys.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::watch;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use crate::stun::message::{Class, Message, attr};

/// First byte of a datagram that nobody takes for anything (RFC 7983 §7).
const NOTHING: u8 = 0xFF;

/// Content types of records (RFC 5246 §6.2.1).
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Handshake types (RFC 5246 §7.4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CLIENT_KEY_EXCHANGE: u8 = 16;

/// How long the other side's first data is waited for: when our last flight is lost, it repeats its own
/// after a second, and its first message may get lost, too.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(3);

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
#[derive(Debug, Default)]
pub(super) struct Handshake {
    sent: AtomicU8,
    /// The other side has sent data or media: it has keys.
    heard: watch::Sender<bool>,
}

impl Handshake {
    /// Waits until the other side has shown that it has keys; not for ever, for it may have nothing to
    /// say.
    pub(super) async fn heard(&self, within: Duration) {
        let mut heard = self.heard.subscribe();
        if tokio::time::timeout(within, heard.wait_for(|heard| *heard)).await.is_err() {
            tracing::debug!("the other side has sent nothing yet: media is sent all the same");
            self.heard.send_replace(true);
        }
    }

    fn is_over(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == Sent::Data as u8 && *self.heard.borrow()
    }

    /// A datagram of ours.
    fn sent(&self, datagram: &[u8]) {
        let Some(dtls) = inner(datagram).filter(|inner| is_dtls(inner)) else { return };
        for record in records(dtls) {
            let sent = match record {
                (HANDSHAKE, Some(SERVER_HELLO)) => Sent::ServerHello,
                (HANDSHAKE, Some(CLIENT_KEY_EXCHANGE)) => Sent::KeyExchange,
                (APPLICATION_DATA, _) => Sent::Data,
                _ => continue,
            };
            self.sent.fetch_max(sent as u8, Ordering::Relaxed);
        }
    }

    /// Makes a datagram unreadable whose flight was answered already.
    fn received(&self, datagram: &mut [u8]) {
        let Some(inner) = inner(datagram) else { return };
        let first = records(inner).next().filter(|_| is_dtls(inner));
        if is_media(inner) || matches!(first, Some((APPLICATION_DATA, _))) {
            self.heard.send_if_modified(|heard| !std::mem::replace(heard, true));
        }
        let Some((HANDSHAKE, Some(kind))) = first else { return };
        let sent = self.sent.load(Ordering::Relaxed);
        let answered = match kind {
            CLIENT_HELLO => sent == Sent::ServerHello as u8,
            // Before encryption the server sends nothing but flight 4 after its first hello.
            _ => sent == Sent::KeyExchange as u8,
        };
        if answered {
            tracing::debug!(kind, "a DTLS flight came again: our answer is on its way or lost");
            datagram[0] = NOTHING;
        }
    }
}

/// What a datagram holds, also one from or to a relay (RFC 7983 §7, RFC 8656 §11 and §12).
fn inner(datagram: &[u8]) -> Option<&[u8]> {
    match datagram.first()? {
        0x40..=0x4F => datagram.get(4..),
        0..=3 => Message::parse(datagram)
            .filter(|message| message.class == Class::Indication)?
            .get(attr::DATA),
        _ => Some(datagram),
    }
}

fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(20..=63))
}

/// SRTP or SRTCP.
fn is_media(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(128..=191))
}

/// Content type of each record, and its handshake type when that is not encrypted (epoch 0).
fn records(mut dtls: &[u8]) -> impl Iterator<Item = (u8, Option<u8>)> {
    std::iter::from_fn(move || {
        let header: &[u8; RECORD_HEADER] = dtls.first_chunk()?;
        let plain = header[3] == 0 && header[4] == 0;
        let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let body = dtls.get(RECORD_HEADER..RECORD_HEADER + length)?;
        dtls = &dtls[RECORD_HEADER + length..];
        let kind = body.first().copied().filter(|_| plain && header[0] == HANDSHAKE);
        Some((header[0], kind))
    })
}

/// A UDP socket that does not hear flights again.
#[derive(Debug)]
pub(super) struct HandshakeSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    handshake: Arc<Handshake>,
}

impl HandshakeSocket {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, handshake: Arc<Handshake>) -> Self {
        Self { inner, handshake }
    }
}

impl AsyncUdpSocket for HandshakeSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        if !self.handshake.is_over() {
            let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
            transmit.contents.chunks(length).for_each(|datagram| self.handshake.sent(datagram));
        }
        self.inner.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if let (false, Poll::Ready(Ok(count))) = (self.handshake.is_over(), &polled) {
            for (buffer, meta) in bufs.iter_mut().zip(meta.iter()).take(*count) {
                let length = meta.len.min(buffer.len());
                for datagram in buffer[..length].chunks_mut(meta.stride.max(1)) {
                    self.handshake.received(datagram);
                }
            }
        }
        polled
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::message::{Builder, method};

    /// A datagram of records: content type, epoch, first byte.
    fn datagram(records: &[(u8, u8, u8)]) -> Vec<u8> {
        let record = |&(content, epoch, kind): &(u8, u8, u8)| {
            [&[content, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 1, 0, 3][..], &[kind, 0, 0]].concat()
        };
        records.iter().flat_map(record).collect()
    }

    fn is_heard(handshake: &Handshake, datagram: &[u8]) -> bool {
        let mut copy = datagram.to_vec();
        handshake.received(&mut copy);
        copy == datagram
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
    fn the_server_hears_the_hello_until_it_has_answered() {
        let handshake = Handshake::default();
        // HelloVerifyRequest keeps no state: the hello without a cookie may come again.
        handshake.sent(&datagram(&[(HANDSHAKE, 0, 3)]));
        assert!(is_heard(&handshake, &hello()) && is_heard(&handshake, &hello()));
        handshake.sent(&flight_4());
        assert!(!is_heard(&handshake, &hello()));
        assert!(is_heard(&handshake, &flight_5()) && is_heard(&handshake, &flight_5()));
    }

    #[test]
    fn the_client_hears_flight_4_until_it_has_answered() {
        let handshake = Handshake::default();
        handshake.sent(&hello());
        assert!(is_heard(&handshake, &flight_4()) && is_heard(&handshake, &flight_4()));
        handshake.sent(&flight_5());
        assert!(!is_heard(&handshake, &flight_4()));
        assert!(!is_heard(&handshake, &datagram(&[(HANDSHAKE, 0, 11)])), "a part of it");
        // The server's last flight, and everything that is no handshake.
        assert!(is_heard(&handshake, &datagram(&[(20, 0, 1), (HANDSHAKE, 1, 9)])));
        assert!(is_heard(&handshake, &datagram(&[(APPLICATION_DATA, 1, 9)])));
        for other in [&[][..], &[22], &[22; 14], &[0x80; 40], &[0, 1, 0, 0]] {
            assert!(is_heard(&handshake, other), "{other:?}");
        }
        assert!(!Handshake::default().is_over());
        handshake.sent(&datagram(&[(APPLICATION_DATA, 1, 9)]));
        assert!(handshake.is_over());
    }

    #[tokio::test]
    async fn data_or_media_shows_that_the_other_side_has_keys() {
        let (data, media) = (datagram(&[(APPLICATION_DATA, 1, 9)]), [0x80; 40].to_vec());
        let channel = |data: &[u8]| [&[0x40, 0, 0, data.len() as u8][..], data].concat();
        for shows in [&data, &media, &channel(&data), &channel(&media)] {
            let handshake = Handshake::default();
            for other in [&flight_5(), &datagram(&[(HANDSHAKE, 1, 9)]), &vec![0, 1, 0, 0]] {
                handshake.received(&mut other.clone());
                assert!(!*handshake.heard.borrow(), "{other:?}");
            }
            handshake.received(&mut shows.clone());
            handshake.heard(Duration::MAX).await;
        }
        // Who has nothing to say is waited for once.
        let silent = Handshake::default();
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
            let handshake = Handshake::default();
            assert!(is_heard(&handshake, &wrap(&hello())));
            handshake.sent(&wrap(&flight_4()));
            assert!(!is_heard(&handshake, &wrap(&hello())));
            assert!(is_heard(&handshake, &wrap(&[0x80; 40])));
        }
    }
}
