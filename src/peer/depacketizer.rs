//! Extracts NAL units from RTP payloads (RFC 6184 §5.6 to §5.8): single units, STAP-A and FU-A.

use bytes::{BufMut, BytesMut};

use crate::media::h264::START_CODE;

/// Appends the NAL units of one payload; `None` if it is malformed.
pub(super) fn depacketize(
    payload: &[u8],
    data: &mut BytesMut,
    in_fragment: &mut bool,
) -> Option<()> {
    let (&header, rest) = payload.split_first()?;
    let kind = header & 0x1f;
    if *in_fragment && kind != 28 {
        return None;
    }
    match kind {
        1..=23 => {
            data.put_slice(&START_CODE);
            data.put_slice(payload);
        }
        24 => stap_a(rest, data)?,
        28 => {
            let (&fu, body) = rest.split_first()?;
            let start = fu & 0x80 != 0;
            if start == *in_fragment {
                return None;
            }
            if start {
                data.put_slice(&START_CODE);
                data.put_u8((header & 0xe0) | (fu & 0x1f));
            }
            data.put_slice(body);
            *in_fragment = fu & 0x40 == 0;
        }
        _ => return None,
    }
    Some(())
}

fn stap_a(mut rest: &[u8], data: &mut BytesMut) -> Option<()> {
    while !rest.is_empty() {
        let size = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        let unit = rest.get(2..2 + size)?;
        // An empty aggregation unit has no content (RFC 6184 §5.7.1): skip it.
        if !unit.is_empty() {
            data.put_slice(&START_CODE);
            data.put_slice(unit);
        }
        rest = &rest[2 + size..];
    }
    Some(())
}

/// Type of the first NAL unit in a payload, including one in a STAP-A or at the start of an FU-A; 0 if there is none.
pub(super) fn first_nal_type(payload: &[u8]) -> u8 {
    let header = match payload.first().map_or(0, |header| header & 0x1f) {
        24 => payload.get(3),
        28 => payload.get(1).filter(|fu| *fu & 0x80 != 0),
        _ => payload.first(),
    };
    header.map_or(0, |header| header & 0x1f)
}

/// Whether a payload is certainly the first of an access unit: it begins with an SPS or a delimiter.
pub(super) fn begins_access_unit(payload: &[u8]) -> bool {
    matches!(first_nal_type(payload), 7 | 9)
}

/// Whether a payload ends with the end of a slice, so that it may be the last of a picture.
pub(super) fn ends_slice(payload: &[u8]) -> bool {
    let is_slice = |header: u8| matches!(header & 0x1f, 1..=5);
    match payload {
        [header, fu, ..] if header & 0x1f == 28 => fu & 0x40 != 0 && is_slice(*fu),
        [header, units @ ..] if header & 0x1f == 24 => {
            let mut rest = units;
            let mut last = None;
            while let [high, low, tail @ ..] = rest {
                let size = usize::from(u16::from_be_bytes([*high, *low]));
                last = tail.first().copied().filter(|_| size > 0).or(last);
                rest = tail.get(size..).unwrap_or_default();
            }
            last.is_some_and(is_slice)
        }
        [header, ..] => is_slice(*header),
        [] => false,
    }
}

/// Whether a payload begins with the first macroblock of a picture (`first_mb_in_slice` 0, one bit) whose slices have
/// this type: 5 for IDR, 1 for non-IDR.
pub(super) fn begins_slice(payload: &[u8], kind: u8) -> bool {
    let body = match payload[0] & 0x1f {
        24 => 4,
        28 => 2,
        _ => 1,
    };
    first_nal_type(payload) == kind && payload.get(body).is_some_and(|byte| byte & 0x80 != 0)
}
