//! Round trips and a burst through an allocation. The relayed address sends to itself, so that nothing
//! but the way to the server and back is measured, and no NAT is in the way; a server that forbids that
//! can be measured with a peer that sends everything back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Client, ClientError};

/// Marks our packets.
const MARK: [u8; 4] = *b"orpd";

/// Pause between two round trips.
const PING_EVERY: Duration = Duration::from_millis(20);

/// How long the last packets may take.
const TAIL: Duration = Duration::from_secs(1);

/// Payload of a packet of video, bytes.
const PACKET_BYTES: usize = 1188;

/// Bytes of a keyframe.
pub const BURST_BYTES: usize = 100_000;

/// Bits a second and bits at once the burst is sent with, as the video sender paces a keyframe.
const PACE: (f64, f64) = (8e6, 120e3);

/// What became of the burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// Packets sent.
    pub sent: u32,
    /// Packets that came back.
    pub received: u32,
    /// From the first packet sent to the last that came back.
    pub took: Duration,
}

impl Burst {
    /// Share of packets lost, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        1.0 - f64::from(self.received) / f64::from(self.sent.max(1))
    }

    /// Payload bits a second.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        let bits = f64::from(self.received) * PACKET_BYTES as f64 * 8.0;
        bits / self.took.as_secs_f64().max(1e-6)
    }
}

fn packet(number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length.max(8)];
    packet[..4].copy_from_slice(&MARK);
    packet[4..8].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> Option<u32> {
    let rest = packet.strip_prefix(&MARK)?;
    Some(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?))
}

impl Client {
    /// Sends small packets to `peer`, which sends them back, and gives the times of those that came.
    ///
    /// # Errors
    /// [`ClientError`] when the connection breaks.
    pub async fn round_trips(
        &mut self,
        peer: SocketAddr,
        count: u32,
    ) -> Result<Vec<Duration>, ClientError> {
        let mut sent = Vec::new();
        let mut times = Vec::new();
        for index in 0..count {
            sent.push(Instant::now());
            self.send_to(peer, &packet(index, 64)).await?;
            let last = index + 1 == count;
            let until = Instant::now() + if last { TAIL } else { PING_EVERY };
            while times.len() < sent.len()
                && let Some((_, data)) = self.receive(until).await?
            {
                let of = number(&data).and_then(|number| sent.get(number as usize));
                times.extend(of.map(Instant::elapsed));
            }
        }
        Ok(times)
    }

    /// Sends as many packets as a keyframe has, paced as video is, to `peer`, which sends them back.
    ///
    /// # Errors
    /// [`ClientError`] when the connection breaks.
    pub async fn burst(&mut self, peer: SocketAddr) -> Result<Burst, ClientError> {
        // Above every number of a round trip, so that a late one does not count here.
        const FIRST: u32 = 1 << 16;
        let total = BURST_BYTES.div_ceil(PACKET_BYTES) as u32;
        let begun = Instant::now();
        let mut seen = std::collections::HashSet::new();
        let mut last = begun;
        let (rate, at_once) = PACE;
        for index in 0..total {
            let bits = f64::from(index) * PACKET_BYTES as f64 * 8.0;
            let due = begun + Duration::from_secs_f64((bits - at_once).max(0.0) / rate);
            while Instant::now() < due
                && let Some((_, data)) = self.receive(due).await?
            {
                note(&mut seen, &mut last, &data, FIRST);
            }
            self.send_to(peer, &packet(FIRST + index, PACKET_BYTES)).await?;
        }
        let until = Instant::now() + TAIL;
        while (seen.len() as u32) < total
            && let Some((_, data)) = self.receive(until).await?
        {
            note(&mut seen, &mut last, &data, FIRST);
        }
        Ok(Burst { sent: total, received: seen.len() as u32, took: last - begun })
    }
}

fn note(seen: &mut std::collections::HashSet<u32>, last: &mut Instant, data: &[u8], first: u32) {
    if let Some(number) = number(data).filter(|number| *number >= first)
        && seen.insert(number)
    {
        *last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_known_by_their_number() {
        assert_eq!(number(&packet(7, 64)), Some(7));
        assert_eq!(packet(7, PACKET_BYTES).len(), PACKET_BYTES);
        assert_eq!(number(b"orp"), None);
        assert_eq!(number(b"xxxx0000"), None);
    }

    #[test]
    fn a_burst_is_told_by_loss_and_rate() {
        let burst = Burst { sent: 80, received: 60, took: Duration::from_millis(100) };
        assert!((burst.loss() - 0.25).abs() < 1e-9);
        assert!((burst.bits_per_second() - 60.0 * 1188.0 * 80.0).abs() < 1.0);
    }
}
