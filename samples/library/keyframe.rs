//! Encodes a photo as one H.264 keyframe of at most 50,000 bytes, which any video player can show.
//!
//!     cargo run --release --example keyframe -- samples/fig.jpg fig.h264

use std::{error::Error, path::Path};

use orion_peer::media::{EncoderConfig, KeyframeEncoder, source::read_picture};

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let [photo, out] = files.as_slice() else { return Err("usage: keyframe PHOTO OUT".into()) };

    let frame = read_picture(Path::new(photo))?;
    let mut encoder =
        KeyframeEncoder::new(EncoderConfig { max_bytes: 50_000, ..EncoderConfig::default() })?;
    let keyframe = encoder.encode(&frame)?;
    std::fs::write(out, &keyframe.access_unit.data)?;

    let unit = &keyframe.access_unit;
    println!(
        "{}x{}, {} bytes, mean QP {:.1}",
        unit.width,
        unit.height,
        unit.data.len(),
        keyframe.qp
    );
    Ok(())
}
