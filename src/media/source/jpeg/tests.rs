use image::{ExtendedColorType::Rgb8, codecs::jpeg::JpegEncoder};

use super::*;

/// A picture of 64x64 pixels from an ordinary encoder.
fn photo() -> Vec<u8> {
    let mut jpeg = Vec::new();
    let pixels: Vec<u8> = (0..64 * 64 * 3).map(|n| (n * 7 % 251) as u8).collect();
    JpegEncoder::new(&mut jpeg).encode(&pixels, 64, 64, Rgb8).unwrap();
    jpeg
}

#[test]
fn a_complete_picture_is_unchanged() {
    let photo = photo();
    let prepared = prepare(&photo).unwrap();
    assert!(matches!(prepared.data, Cow::Borrowed(_)) && prepared.notice.is_none());
    assert_eq!(dimensions(&photo), Some((64, 64)));
}

#[test]
fn only_the_end_marker_may_be_missing() {
    let photo = photo();
    let cut = &photo[..photo.len() - 2];
    let prepared = prepare(cut).unwrap();
    assert_eq!(prepared.data, photo);
    assert!(prepared.notice.unwrap().contains("end marker"));
    let begin = segments(&photo).find(|segment| segment.marker == marker::SOS).unwrap();
    let begin = begin.at + begin.payload.len();
    for length in (begin..photo.len() - 2).rev().step_by(29) {
        // Appending an end marker does not make it complete.
        for end in [&[][..], &[0xff, 0xd9]] {
            let error = prepare(&[&photo[..length], end].concat()).err();
            let error = error.unwrap_or_else(|| panic!("{length} of {} is whole", photo.len()));
            assert!(error.contains("cut off"), "{length}: {error}");
            assert!(error.contains('%'), "{length}: {error}");
        }
    }
}

#[test]
fn missing_huffman_tables_are_replaced_by_the_standard_ones() {
    let photo = photo();
    let mut without = photo.clone();
    while let Some(at) = without.windows(2).position(|pair| pair == [0xff, marker::DHT]) {
        let length = usize::from(u16::from_be_bytes([without[at + 2], without[at + 3]]));
        without.drain(at..at + 2 + length);
    }
    let prepared = prepare(&without).unwrap();
    assert!(prepared.notice.is_none());
    let decode = |data: &[u8]| image::load_from_memory(data).unwrap().into_rgb8();
    assert_eq!(decode(&prepared.data), decode(&photo));
    let half = &without[..without.len() * 3 / 4];
    assert!(prepare(half).is_err());
}

proptest::proptest! {
    #[test]
    fn no_input_panics(at in 0_usize..4000, bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..6), cut in 0_usize..4000) {
        let mut photo = photo();
        let at = at % photo.len();
        for (slot, byte) in photo[at..].iter_mut().zip(&bytes) {
            *slot = *byte;
        }
        photo.truncate(photo.len() - cut % photo.len());
        let _ = (prepare(&photo).is_ok(), siblings::relations(&photo), dimensions(&photo));
    }
}
