//! Splits access units into RTP payloads (RFC 6184, packetization-mode 1).
//!
//! Consecutive small NAL units share a STAP-A (§5.7.1), large ones are split into FU-As (§5.8), and others are sent
//! alone (§5.6). All NAL units are sent in order and nothing is added, so the receiver restores the access unit byte
//! for byte.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::h264;

/// Maximum RTP payload, bytes: fits an MTU of 1280 (the IPv6 minimum) together with the headers of UDP, a TURN
/// channel and SRTP, and SRTP's tag.
pub const MAX_PAYLOAD_BYTES: usize = 1188;

const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const NRI_MASK: u8 = 0x60;
const TYPE_MASK: u8 = 0x1f;

/// Splits an access unit in Annex B form into RTP payloads; the last one needs the marker bit.
#[must_use]
pub fn packetize(access_unit: &Bytes) -> Vec<Bytes> {
    let mut payloads = Vec::with_capacity(access_unit.len() / MAX_PAYLOAD_BYTES + 4);
    let mut small: Vec<Bytes> = Vec::new();
    let mut small_bytes = 1;
    for unit in h264::nal_units(access_unit) {
        if unit.is_empty() {
            continue;
        }
        let unit = access_unit.slice_ref(unit);
        if small_bytes + 2 + unit.len() > MAX_PAYLOAD_BYTES {
            flush(&mut small, &mut payloads);
            small_bytes = 1;
        }
        if unit.len() > MAX_PAYLOAD_BYTES {
            fragment(&unit, &mut payloads);
        } else {
            small_bytes += 2 + unit.len();
            small.push(unit);
        }
    }
    flush(&mut small, &mut payloads);
    payloads
}

/// Emits the collected units: a single NAL unit as it is, several as a STAP-A.
fn flush(small: &mut Vec<Bytes>, payloads: &mut Vec<Bytes>) {
    if small.len() < 2 {
        payloads.extend(small.pop());
        return;
    }
    let nri = small.iter().map(|unit| unit[0] & NRI_MASK).max().unwrap_or(0);
    let mut payload = BytesMut::with_capacity(1 + small.iter().map(|u| u.len() + 2).sum::<usize>());
    payload.put_u8(nri | STAP_A);
    for unit in small.drain(..) {
        payload.put_u16(unit.len() as u16);
        payload.put_slice(&unit);
    }
    payloads.push(payload.freeze());
}

/// Splits one NAL unit into FU-As of nearly equal size.
fn fragment(unit: &Bytes, payloads: &mut Vec<Bytes>) {
    let indicator = (unit[0] & NRI_MASK) | FU_A;
    let kind = unit[0] & TYPE_MASK;
    let body = &unit[1..];
    let pieces = body.len().div_ceil(MAX_PAYLOAD_BYTES - 2);
    let size = body.len().div_ceil(pieces);
    let mut storage = BytesMut::with_capacity(body.len() + 2 * pieces);
    for (index, piece) in body.chunks(size).enumerate() {
        let start = u8::from(index == 0) << 7;
        let end = u8::from((index + 1) * size >= body.len()) << 6;
        storage.put_u8(indicator);
        storage.put_u8(start | end | kind);
        storage.put_slice(piece);
        payloads.push(storage.split().freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access_unit(sizes: &[usize]) -> Bytes {
        let mut data = BytesMut::new();
        for (index, size) in sizes.iter().enumerate() {
            data.put_slice(&[0, 0, 0, 1]);
            data.put_u8([0x67, 0x68, 0x65][index.min(2)]);
            data.put_bytes(0xab, size - 1);
        }
        data.freeze()
    }

    #[test]
    fn parameter_sets_share_a_stap_a_and_the_slice_is_fragmented() {
        let payloads = packetize(&access_unit(&[18, 8, 5000]));
        assert_eq!(payloads[0][0], 0x60 | STAP_A);
        assert_eq!(payloads[0].len(), 1 + 2 + 18 + 2 + 8);
        assert!(payloads[1..].iter().all(|p| p[0] & TYPE_MASK == FU_A));
        assert_eq!(payloads[1][1], 0x80 | 5);
        assert_eq!(payloads.last().unwrap()[1], 0x40 | 5);
        assert!(payloads.iter().all(|p| p.len() <= MAX_PAYLOAD_BYTES));
        let body: usize = payloads[1..].iter().map(|p| p.len() - 2).sum();
        assert_eq!(body, 4999);
    }

    #[test]
    fn no_fragment_is_both_start_and_end() {
        for size in MAX_PAYLOAD_BYTES + 1..MAX_PAYLOAD_BYTES + 10 {
            let payloads = packetize(&access_unit(&[size]));
            assert_eq!(payloads.len(), 2);
            assert!(payloads.iter().all(|p| p[1] & 0xc0 != 0xc0));
        }
    }

    #[test]
    fn one_small_unit_is_sent_alone() {
        let payloads = packetize(&access_unit(&[100]));
        assert_eq!(payloads.len(), 1);
        assert_eq!(payloads[0][0], 0x67);
    }
}
