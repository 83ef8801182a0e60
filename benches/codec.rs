//! The codec's stages at 720p and 100 KB: encoding (new scenes and a steady one), decoding and
//! conversions. Run with `cargo bench --bench codec`.

use std::{hint::black_box, path::Path, time::SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use orion_peer::media::{
    Decoder, EncoderConfig, Frame, KeyframeEncoder,
    source::{PatternSource, read_picture},
};

/// Nine scenes of 1280x720: each sample photo uncropped, its center and a corner, so that no two
/// consecutive scenes need the same QP.
fn scenes() -> Vec<Frame> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let photos = ["seeding.jpg", "fig.jpg", "picos-de-europa.jpg"]
        .map(|name| read_picture(&samples.join(name)).expect("a sample"));
    let sized = |photo: &Frame, width, height| photo.resize(width, height).expect("a size");
    let crop = |photo: &Frame, x: usize, y: usize| {
        let w = photo.width as usize;
        let planes = [
            (&photo.y[y * w + x..], w),
            (&photo.u[y / 2 * (w / 2) + x / 2..], w / 2),
            (&photo.v[y / 2 * (w / 2) + x / 2..], w / 2),
        ];
        Frame::from_planes((1280, 720), planes, SystemTime::UNIX_EPOCH).expect("a part")
    };
    let whole = photos.iter().map(|photo| sized(photo, 1280, 720));
    let centre = photos.iter().map(|photo| crop(&sized(photo, 1920, 1080), 320, 180));
    let corner = photos.iter().map(|photo| crop(&sized(photo, 2560, 1440), 100, 600));
    whole.chain(centre).chain(corner).collect()
}

fn encode(c: &mut Criterion) {
    let scenes = scenes();
    let mut group = c.benchmark_group("encode 720p 100KB");
    group.sample_size(60);
    let new_encoder =
        || KeyframeEncoder::new(EncoderConfig::default()).expect("the default budget");
    let mut encoder = new_encoder();
    let mut order = (0..scenes.len()).cycle();
    group.bench_function("cold: another scene each time", |b| {
        b.iter(|| {
            let scene = &scenes[order.next().expect("a cycle") * 4 % scenes.len()];
            black_box(encoder.encode(scene).expect("a keyframe"))
        });
    });
    let mut encoder = new_encoder();
    let pattern = PatternSource::new(1280, 720).expect("a size");
    let moving: Vec<Frame> =
        (0..16).map(|number| pattern.render(number, SystemTime::UNIX_EPOCH)).collect();
    let mut order = (0..moving.len()).cycle();
    group.bench_function("steady: the moving pattern", |b| {
        b.iter(|| {
            let frame = &moving[order.next().expect("a cycle")];
            black_box(encoder.encode(frame).expect("a keyframe"))
        });
    });
    let mut encoder = new_encoder();
    group.bench_function("steady: the same photo", |b| {
        b.iter(|| black_box(encoder.encode(&scenes[0]).expect("a keyframe")));
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut encoder = KeyframeEncoder::new(EncoderConfig::default()).expect("the default budget");
    let units: Vec<_> = scenes()
        .iter()
        .map(|scene| encoder.encode(scene).expect("a keyframe").access_unit.data)
        .collect();
    let mut decoder = Decoder::new().expect("a decoder");
    let mut order = (0..units.len()).cycle();
    c.bench_function("decode 720p 100KB", |b| {
        b.iter(|| {
            let unit = &units[order.next().expect("a cycle")];
            black_box(decoder.decode(unit).expect("a frame"))
        });
    });
}

fn convert(c: &mut Criterion) {
    let frame = scenes().remove(0);
    let rgb = frame.to_rgb8().expect("RGB");
    let yuyv = vec![90; 1280 * 720 * 2];
    let now = SystemTime::UNIX_EPOCH;
    let mut group = c.benchmark_group("convert 720p");
    group.bench_function("RGB to I420", |b| {
        b.iter(|| Frame::from_rgb8(1280, 720, black_box(&rgb), now).expect("a frame"));
    });
    group.bench_function("YUYV to I420", |b| {
        b.iter(|| Frame::from_yuyv(1280, 720, black_box(&yuyv), now).expect("a frame"));
    });
    group.bench_function("NV12 to I420", |b| {
        b.iter(|| Frame::from_nv12(1280, 720, black_box(&yuyv), now).expect("a frame"));
    });
    group.bench_function("I420 to RGB", |b| {
        b.iter(|| black_box(&frame).to_rgb8().expect("RGB"));
    });
    let large = frame.resize(1920, 1080).expect("a size");
    group.bench_function("1080p to 720p", |b| {
        b.iter(|| black_box(&large).fit(1280, 720).expect("a size"));
    });
    group.finish();
}

criterion_group!(benches, encode, decode, convert);
criterion_main!(benches);
