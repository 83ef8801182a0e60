//! The media pipeline from a photo to files, without the network.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use orion_peer::media::{
    Captured, DecodeError, Decoder, EncodeError, EncodedKeyframe, EncoderConfig, Frame,
    FrameRecord, FrameWriter, KeyframeEncoder, PictureFormat, Quality, Source, SourceError,
    SourceOptions, SourceSpec,
    h264::{
        NalType, append_nal, dimensions, idr_pic_id, nal_type, nal_units, normalize,
        profile_level_id,
    },
    source::{CameraSpec, list_devices, open, open_stream, read_picture},
};

const BUDGET: usize = 100_000;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// The sample photos at 720p.
fn photos() -> &'static [Frame] {
    static PHOTOS: OnceLock<Vec<Frame>> = OnceLock::new();
    PHOTOS.get_or_init(|| {
        ["seeding.jpg", "fig.jpg", "picos-de-europa.jpg"]
            .map(|name| read_picture(&samples().join(name)).unwrap().fit(1280, 720).unwrap())
            .to_vec()
    })
}

fn encoder(max_bytes: usize) -> KeyframeEncoder {
    KeyframeEncoder::new(EncoderConfig { max_bytes, ..EncoderConfig::default() }).unwrap()
}

fn types(annex_b: &[u8]) -> Vec<NalType> {
    nal_units(annex_b).map(nal_type).collect()
}

/// White noise: the hardest picture to encode.
fn noise(width: u32, height: u32, mut seed: u64) -> Frame {
    let data: Vec<u8> = (0..width * height * 3 / 2)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .collect();
    Frame::from_i420(width, height, &data, SystemTime::UNIX_EPOCH).unwrap()
}

#[test]
fn photos_fill_the_budget_without_exceeding_it() {
    let mut encoder = encoder(BUDGET);
    let mut decoder = Decoder::new().unwrap();
    let mut last_id = None;
    for round in 0..2 {
        for photo in photos() {
            let keyframe = encoder.encode(photo).unwrap();
            let EncodedKeyframe { access_unit, qp, passes, scaled_from, .. } = keyframe;
            let data = &access_unit.data;
            let size = data.len();
            println!("round {round}: {size} bytes at QP {qp:.1} in {passes} passes");
            assert!(size <= BUDGET, "{size} bytes are over the budget");
            assert!(size >= BUDGET * 96 / 100, "{size} bytes leave the budget unused");
            assert!(passes <= 7, "{passes} passes");
            assert_eq!(scaled_from, None);
            assert_eq!(types(data)[..2], [NalType::Sps, NalType::Pps]);
            assert_eq!(types(data)[2..], [NalType::Idr; 4]);
            assert_eq!(data, &normalize(data));
            assert_eq!(dimensions(data), Some((photo.width, photo.height)));
            let id = idr_pic_id(data);
            assert!(id.is_some() && id != last_id, "{id:?} after {last_id:?}");
            last_id = id;
            let psnr = decoder.decode(data).unwrap().psnr_y(photo).unwrap();
            assert!(psnr > 30.0, "{psnr} dB");
        }
    }
}

#[test]
fn a_steady_scene_takes_at_most_two_passes() {
    for photo in photos() {
        let mut encoder = encoder(BUDGET);
        encoder.encode(photo).unwrap();
        let mut passes: Vec<u32> = (0..9)
            .map(|seed| encoder.encode(&grainy(photo, seed)).unwrap())
            .inspect(|keyframe| {
                let size = keyframe.access_unit.data.len();
                assert!((BUDGET * 96 / 100..=BUDGET).contains(&size), "{size}");
            })
            .map(|keyframe| keyframe.passes)
            .collect();
        passes.sort_unstable();
        assert!(passes[passes.len() / 2] <= 2, "{passes:?}");
    }
}

/// The next picture of the same scene from a camera: every pixel differs by at most one.
fn grainy(frame: &Frame, seed: u64) -> Frame {
    let grain = noise(frame.width, frame.height, seed);
    let luma = frame.y.iter().zip(&grain.y);
    Frame {
        y: luma.map(|(y, grain)| y.saturating_add(grain % 3).max(1) - 1).collect(),
        ..frame.clone()
    }
}

/// Pictures that are hard to encode for different reasons: plain, high contrast, fine detail,
/// uneven, random.
fn extremes(width: u32, height: u32) -> Vec<(&'static str, Frame)> {
    let drawn = |luma: &dyn Fn(u32, u32) -> u8| {
        let pixels = width * height;
        let mut data: Vec<u8> = (0..pixels).map(|i| luma(i % width, i / width)).collect();
        data.extend(vec![128; pixels as usize / 2]);
        Frame::from_i420(width, height, &data, SystemTime::UNIX_EPOCH).unwrap()
    };
    let random = noise(width, height, 11);
    let grain = |x: u32, y: u32| random.y[(y * width + x) as usize];
    vec![
        ("black", drawn(&|_, _| 16)),
        ("white", drawn(&|_, _| 235)),
        ("checks of 1 pixel", drawn(&|x, y| if (x + y) % 2 == 0 { 16 } else { 235 })),
        ("checks of 5 pixels", drawn(&|x, y| if (x / 5 + y / 5) % 2 == 0 { 16 } else { 235 })),
        ("ramp", drawn(&|x, _| (x * 255 / width) as u8)),
        (
            "noise in the lower third",
            drawn(&|x, y| if y * 3 > height * 2 { grain(x, y) } else { 90 }),
        ),
        ("noise in the upper third", drawn(&|x, y| if y * 3 < height { grain(x, y) } else { 90 })),
        ("grain", drawn(&|x, y| 100 + grain(x, y) % 16)),
        ("noise", drawn(&grain)),
    ]
}

#[test]
fn no_sequence_of_pictures_exceeds_the_budget() {
    let mut encoder = encoder(BUDGET);
    let mut decoder = Decoder::new().unwrap();
    for (width, height) in [(1280, 720), (1920, 1080)] {
        let mut scenes = extremes(width, height);
        // A photo follows each picture: the hard picture before it must not affect it.
        let mut between = photos().iter().cycle();
        while let Some((name, scene)) = scenes.pop() {
            let photo = between.next().unwrap().resize(width, height).unwrap();
            for (name, frame) in [(name, scene), ("a photo after it", photo)] {
                let EncodedKeyframe { access_unit, passes, scaled_from, .. } =
                    encoder.encode(&frame).unwrap();
                let size = access_unit.data.len();
                println!("{width}x{height} {name}: {size} bytes, {passes} passes, {scaled_from:?}");
                assert!(size <= BUDGET, "{name}: {size} bytes");
                let decoded = decoder.decode(&access_unit.data).unwrap();
                assert_eq!(
                    (decoded.width, decoded.height),
                    (access_unit.width, access_unit.height)
                );
                if scaled_from.is_none() {
                    let psnr = decoded.psnr_y(&frame).unwrap();
                    assert!(psnr > 12.0, "{name}: {psnr} dB");
                }
            }
        }
    }
}

#[test]
fn the_first_keyframe_of_a_new_scene_fills_the_budget() {
    let mut encoder = encoder(BUDGET);
    let mut decoder = Decoder::new().unwrap();
    let plain = Frame::from_rgb8(1280, 720, &vec![99; 1280 * 720 * 3], SystemTime::now()).unwrap();
    for round in 0..2 {
        for photo in photos() {
            assert!(encoder.encode(&plain).unwrap().access_unit.data.len() < 10_000);
            let keyframe = encoder.encode(photo).unwrap();
            let size = keyframe.access_unit.data.len();
            assert!((BUDGET * 96 / 100..=BUDGET).contains(&size), "round {round}: {size}");
            assert!(keyframe.passes <= 6, "{} passes", keyframe.passes);
            let quality = Quality::of_keyframe(photo, &keyframe.access_unit.data).unwrap().unwrap();
            let decoded = decoder.decode(&keyframe.access_unit.data).unwrap();
            assert_eq!(Quality::between(photo, &decoded), Some(quality));
            assert!(quality.psnr_y > 30.0 && quality.ssim_y > 0.85, "{quality:?}");
        }
    }
}

#[test]
fn the_sps_has_the_baseline_profile_and_a_matching_level() {
    let mut encoder = encoder(BUDGET);
    let mut level = |frame: &Frame| {
        let data = encoder.encode(frame).unwrap().access_unit.data;
        profile_level_id(nal_units(&data).next().unwrap()).unwrap()
    };
    let photo = &photos()[0];
    let small = level(photo);
    assert_eq!(small >> 16, 0x42, "{small:06x}");
    assert!(small & 0xff <= 0x1f, "{small:06x}: 720p fits level 3.1");
    let large = level(&photo.fit(1920, 1080).unwrap());
    assert!(large & 0xff <= 0x28, "{large:06x}: 1080p fits level 4.0");
}

#[test]
fn the_budget_can_change() {
    let mut encoder = encoder(BUDGET);
    let photo = &photos()[1];
    for budget in [100_000, 20_000, 60_000, 200_000] {
        encoder.set_max_bytes(budget).unwrap();
        let size = encoder.encode(photo).unwrap().access_unit.data.len();
        assert!(size <= budget && size > budget * 3 / 4, "{size} of {budget}");
    }
    assert!(matches!(encoder.set_max_bytes(10), Err(EncodeError::BudgetTooSmall { .. })));
}

#[test]
fn noise_is_scaled_down_and_easy_scenes_restore_the_full_size() {
    let mut encoder = encoder(BUDGET);
    let mut decoder = Decoder::new().unwrap();
    let mut last_id = None;
    for seed in 0..3 {
        let keyframe = encoder.encode(&noise(1280, 720, seed)).unwrap();
        let unit = keyframe.access_unit;
        println!(
            "{}x{}, {} bytes, QP {}, {} passes",
            unit.width,
            unit.height,
            unit.data.len(),
            keyframe.qp,
            keyframe.passes
        );
        assert!(unit.data.len() <= BUDGET);
        assert_eq!(keyframe.scaled_from, Some((1280, 720)));
        let frame = decoder.decode(&unit.data).unwrap();
        assert_eq!((frame.width, frame.height), (unit.width, unit.height));
        assert!(frame.width < 1280 && frame.width.abs_diff(frame.height * 16 / 9) <= 4);
        let id = idr_pic_id(&unit.data);
        assert_ne!(id, last_id);
        last_id = id;
    }
    let photo = &photos()[0];
    let restored = (0..10).any(|_| encoder.encode(photo).unwrap().scaled_from.is_none());
    assert!(restored, "an easy scene restores the full size");
}

#[test]
fn extreme_sizes_are_encoded_or_rejected() {
    let mut encoder = encoder(BUDGET);
    let grey = |w: u32, h: u32| {
        Frame::from_rgb8(w, h, &vec![99; (w * h * 3) as usize], SystemTime::now()).unwrap()
    };
    let mut decoder = Decoder::new().unwrap();
    for (w, h) in [(16, 16), (17, 33), (34, 3000), (3840, 16), (3840, 2160), (2160, 3840)] {
        let keyframe = encoder.encode(&grey(w, h)).unwrap();
        let frame = decoder.decode(&keyframe.access_unit.data).unwrap();
        assert_eq!((frame.width, frame.height), (w & !1, h & !1));
        assert!(keyframe.qp < 0.1, "a plain picture fits at the best quality");
    }
    assert!(matches!(encoder.encode(&grey(14, 200)), Err(EncodeError::TooSmall { .. })));
    assert!(matches!(encoder.encode(&grey(3842, 20)), Err(EncodeError::TooLarge { .. })));
    assert!(matches!(encoder.encode(&grey(2400, 2400)), Err(EncodeError::TooLarge { .. })));
}

#[test]
fn large_noise_does_not_fail_at_the_limits_of_openh264() {
    let keyframe = encoder(50_000).encode(&noise(1920, 1080, 5)).unwrap();
    assert!(keyframe.access_unit.data.len() <= 50_000);
    assert_eq!(keyframe.scaled_from, Some((1920, 1080)));
}

#[test]
fn the_decoder_recovers_after_garbage() {
    let mut encoder = encoder(30_000);
    let photo = photos()[0].fit(640, 360).unwrap();
    let good = encoder.encode(&photo).unwrap().access_unit.data;
    let mut decoder = Decoder::new().unwrap();
    let mut broken_seen = 0;
    for round in 0..40 {
        let mut bad = good.to_vec();
        match round % 4 {
            0 => bad.truncate(40 + round * 7),
            1 => bad[50..].fill(round as u8),
            2 => bad[4..].iter_mut().step_by(9).for_each(|byte| *byte ^= 0x5a),
            _ => bad = vec![0, 0, 0, 1, 0x65, round as u8],
        }
        broken_seen += u32::from(decoder.decode(&bad).is_err());
        let frame = decoder.decode(&good).expect("the next keyframe works again");
        assert!(frame.psnr_y(&photo).unwrap() > 30.0);
    }
    assert!(broken_seen >= 20, "only {broken_seen} of 40 were detected");
}

#[test]
fn the_decoder_follows_a_continuous_stream() {
    use openh264::{
        OpenH264API,
        encoder::{Encoder, EncoderConfig, RateControlMode},
        formats::YUVSlices,
    };
    let config = EncoderConfig::new().rate_control_mode(RateControlMode::Off).skip_frames(false);
    let mut continuous = Encoder::with_api_config(OpenH264API::from_source(), config).unwrap();
    let pattern = orion_peer::media::source::PatternSource::new(320, 192).unwrap();
    let units: Vec<(Frame, Vec<u8>)> = (0..12)
        .map(|number| {
            let frame = pattern.render(number, SystemTime::UNIX_EPOCH);
            if number == 8 {
                continuous.force_intra_frame();
            }
            let slices =
                YUVSlices::new((&frame.y, &frame.u, &frame.v), (320, 192), (320, 160, 160));
            let unit = continuous.encode(&slices).unwrap().to_vec();
            (frame, unit)
        })
        .collect();
    assert!(types(&units[3].1).contains(&NalType::NonIdr));

    let mut decoder = Decoder::new().unwrap();
    for (i, (frame, unit)) in units.iter().enumerate() {
        if i == 4 {
            assert!(decoder.decode(&unit[..unit.len() / 2]).is_err());
            continue;
        }
        let result = decoder.decode(unit);
        if (5..8).contains(&i) {
            assert!(matches!(result, Err(DecodeError::NeedKeyframe { .. })), "{i}: {result:?}");
        } else {
            assert!(result.unwrap().psnr_y(frame).unwrap() > 30.0, "{i}");
        }
    }
}

#[test]
fn parameter_sets_may_arrive_separately() {
    let data =
        encoder(30_000).encode(&photos()[0].fit(320, 180).unwrap()).unwrap().access_unit.data;
    let nals: Vec<&[u8]> = nal_units(&data).collect();
    let part = |nals: &[&[u8]]| {
        let mut out = Vec::new();
        for nal in nals {
            append_nal(&mut out, nal);
        }
        out
    };
    let mut decoder = Decoder::new().unwrap();
    assert!(matches!(decoder.decode(&part(&nals[..2])), Err(DecodeError::NoSlice { .. })));
    assert!(decoder.decode(&part(&nals[2..])).is_ok());
    let huge = [0, 0, 0, 1, 0x67, 66, 0xe0, 0x1f, 0x9a, 0x00, 0x20, 0x00, 0x40, 0x00, 0x80, 0x40];
    assert!(decoder.decode(&huge).is_err());
}

// Sources.

fn frames(source: &mut dyn Source, limit: usize) -> (Vec<Captured>, Option<SourceError>) {
    let mut found = Vec::new();
    while found.len() < limit {
        match source.next() {
            Ok(Some(captured)) => found.push(captured),
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

fn open_path(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    open(&path.to_str().unwrap().parse().unwrap(), SourceOptions { size: Some((320, 180)) })
}

/// The error of a source that must not open; it must have a remedy and name the path.
fn refused(path: &Path) -> SourceError {
    let error = open_path(path).err().expect("it must not open");
    assert!(!error.remedy().is_empty());
    assert!(error.to_string().contains(path.to_str().unwrap().trim_end_matches('/')), "{error}");
    error
}

#[test]
fn a_photo_is_repeated_at_the_requested_size() {
    let mut source = open_path(&samples().join("fig.jpg")).unwrap();
    let (found, error) = frames(source.as_mut(), 3);
    assert!(error.is_none());
    let [Captured::Frame(first), Captured::Frame(second), _] = &found[..] else { panic!() };
    assert_eq!((first.width, first.height), (266, 180));
    assert_eq!(first.y, second.y);
    assert!(first.captured_at <= second.captured_at);
}

#[test]
fn a_directory_is_repeated_without_broken_pictures() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(refused(dir.path()), SourceError::EmptyDirectory { .. }));
    fs::write(dir.path().join("0.jpg"), b"\xff\xd8\xff\xe0 no picture").unwrap();
    fs::write(dir.path().join("notes.txt"), b"x").unwrap();
    assert!(matches!(refused(dir.path()), SourceError::NoReadablePicture { count: 1, .. }));
    for (name, luma) in [("b.png", 200), ("a.png", 50)] {
        image::GrayImage::from_pixel(64, 36, image::Luma([luma]))
            .save(dir.path().join(name))
            .unwrap();
    }
    let mut source = open_path(dir.path()).unwrap();
    let (found, _) = frames(source.as_mut(), 5);
    let bright: Vec<bool> = found
        .iter()
        .map(|captured| matches!(captured, Captured::Frame(frame) if frame.y[0] > 128))
        .collect();
    assert_eq!(bright, [false, true, false, true, false]);
}

#[test]
fn broken_and_missing_files_are_reported_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, data: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, data).unwrap();
        path
    };
    let mut jpeg = fs::read(samples().join("seeding.jpg")).unwrap();
    jpeg[100..400].fill(0);
    assert!(matches!(refused(&file("broken.jpg", &jpeg)), SourceError::Picture { .. }));
    assert!(matches!(refused(&file("empty.png", b"")), SourceError::Empty { .. }));
    assert!(matches!(refused(&file("text.y4m", b"YUV4 hello")), SourceError::Y4mHeader { .. }));
    assert!(matches!(refused(&file("text.h264", b"hello")), SourceError::Foreign { .. }));
    let slice = [0, 0, 1, 0x41, 0x9a, 0x24, 0x6c, 0x41];
    assert!(matches!(refused(&file("slice.h264", &slice)), SourceError::NoKeyframe { .. }));
    assert!(matches!(refused(&dir.path().join("gone.jpg")), SourceError::Open { .. }));
    assert!(matches!(refused(&dir.path().join("gone/")), SourceError::Open { .. }));
    // A PNG that claims 60000x60000 pixels.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0".to_vec();
    bomb.extend([0; 64]);
    assert!(matches!(refused(&file("bomb.png", &bomb)), SourceError::Picture { .. }));
    image::GrayImage::new(1, 1).save(dir.path().join("tiny.png")).unwrap();
    assert!(matches!(refused(&dir.path().join("tiny.png")), SourceError::Picture { .. }));
}

/// Peak memory of this process, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn headers_of_huge_pictures_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let before = peak_memory();
    let file = |name: &str, data: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, data).unwrap();
        path
    };
    for (width, height) in [(65_535_u32, 65_535_u32), (65_500, 16), (1 << 31, 2), (16_384, 16_384)]
    {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[16, 6, 0, 0, 0]].concat();
        png.extend(&header);
        png.extend(crc32(&[b"IHDR", &header[..]].concat()).to_be_bytes());
        // Some picture data, so that the decoder starts.
        let data = [0x78, 0x9c, 0x63, 0, 0];
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(b"IDAT");
        png.extend(data);
        png.extend(crc32(&[b"IDAT", &data[..]].concat()).to_be_bytes());
        let error = refused(&file("bomb.png", &png));
        assert!(matches!(error, SourceError::Picture { .. }), "{width}x{height}: {error}");
        let y4m =
            [format!("YUV4MPEG2 W{width} H{height} C444\nFRAME\n").as_bytes(), &[7; 4096]].concat();
        let error = refused(&file("bomb.y4m", &y4m));
        assert!(matches!(error, SourceError::Y4mHeader { .. }), "{width}x{height}: {error}");
    }
    // A JPEG of 65500x65500: start marker, frame header, scan, end marker.
    let mut jpeg = vec![0xff, 0xd8, 0xff, 0xc0, 0, 11, 8, 0xff, 0xdc, 0xff, 0xdc, 1, 1, 0x11, 0];
    jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 1, 2, 3, 0xff, 0xd9]);
    assert!(matches!(refused(&file("bomb.jpg", &jpeg)), SourceError::Picture { .. }));
    // Endless headers: of the stream, and of a frame after a valid one.
    let endless = |begin: &[u8]| {
        let begin = std::io::Cursor::new(begin.to_vec());
        let stream = std::io::Read::chain(begin, std::io::repeat(b'A'));
        open_stream(Box::new(stream), "endless", SourceOptions::default())
    };
    assert!(matches!(endless(b"YUV4MPEG2 W"), Err(SourceError::Y4mHeader { .. })));
    let good = [&b"YUV4MPEG2 W64 H48 F1:1\nFRAME\n"[..], &[9; 64 * 48 * 3 / 2], b"FRAME "].concat();
    let mut source = endless(&good).unwrap();
    assert!(matches!(source.next(), Ok(Some(_))));
    let error = source.next().err().unwrap();
    assert!(
        matches!(error, SourceError::Y4mHeader { .. } | SourceError::Y4mTruncated { .. }),
        "{error}"
    );
    let limit = 300 << 20;
    let grown = peak_memory() - before;
    assert!(grown < limit, "{grown} bytes");
}

/// CRC-32 of PNG chunks (ISO 3309).
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn a_truncated_y4m_file_yields_its_complete_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.y4m");
    let mut data = b"YUV4MPEG2 W64 H36 F30:1 C420jpeg\n".to_vec();
    for luma in 0..3 {
        data.extend(b"FRAME\n");
        data.extend([luma; 64 * 36 * 3 / 2]);
    }
    fs::write(&path, &data[..data.len() - 100]).unwrap();
    let mut source = open_path(&path).unwrap();
    let (found, error) = frames(source.as_mut(), 9);
    assert_eq!(found.len(), 2);
    let error = error.unwrap();
    assert!(error.to_string().contains("frame 3"), "{error}");
    fs::write(&path, &data).unwrap();
    let (found, error) = frames(open_path(&path).unwrap().as_mut(), 9);
    assert!(found.len() == 3 && error.is_none());
}

#[test]
fn the_keyframes_of_an_h264_file_are_unchanged() {
    let mut encoder = encoder(20_000);
    let units: Vec<Vec<u8>> = (0..3)
        .map(|i| {
            encoder.encode(&photos()[i].fit(320, 180).unwrap()).unwrap().access_unit.data.to_vec()
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("three.h264");
    fs::write(&path, units.concat()).unwrap();
    let (found, error) = frames(open_path(&path).unwrap().as_mut(), 9);
    assert!(error.is_none());
    let data: Vec<Vec<u8>> = found
        .iter()
        .map(|captured| match captured {
            Captured::AccessUnit(unit) => unit.data.to_vec(),
            Captured::Frame(_) => panic!("pixels from an encoded file"),
        })
        .collect();
    assert_eq!(data, units);

    // Later IDR pictures without parameter sets get those of the first one.
    let slice = nal_units(&units[0]).nth(2).unwrap().to_vec();
    let mut bare = units[0].clone();
    bare.extend([0, 0, 1]);
    bare.extend(&slice);
    fs::write(&path, bare).unwrap();
    let (found, _) = frames(open_path(&path).unwrap().as_mut(), 9);
    let Captured::AccessUnit(second) = &found[1] else { panic!() };
    assert_eq!(second.data, units[0]);
}

#[test]
fn the_format_of_a_stream_is_detected_from_its_first_bytes() {
    let stream = |data: Vec<u8>| {
        open_stream(
            Box::new(std::io::Cursor::new(data)),
            "standard input",
            SourceOptions::default(),
        )
    };
    let jpeg = |name: &str| fs::read(samples().join(name)).unwrap();
    let single = frames(stream(jpeg("seeding.jpg")).unwrap().as_mut(), 4);
    assert_eq!(single.0.len(), 4, "a single picture is repeated");
    let two = [jpeg("seeding.jpg"), jpeg("fig.jpg")].concat();
    let (found, error) = frames(stream(two).unwrap().as_mut(), 9);
    assert!(found.len() == 2 && error.is_none(), "several are a stream: {error:?}");
    let unit = encoder(20_000).encode(&photos()[0]).unwrap().access_unit.data.to_vec();
    assert!(matches!(stream(unit).unwrap().next(), Ok(Some(Captured::AccessUnit(_)))));
    let mut png = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(32, 32).write_to(&mut png, image::ImageFormat::Png).unwrap();
    assert!(matches!(stream(png.into_inner()).unwrap().next(), Ok(Some(Captured::Frame(_)))));
    let y4m = b"YUV4MPEG2 W2 H2\nFRAME\n\x01\x02\x03\x04\x05\x06".to_vec();
    assert!(matches!(stream(y4m).unwrap().next(), Ok(Some(Captured::Frame(_)))));
    assert!(matches!(stream(Vec::new()), Err(SourceError::Empty { .. })));
    let Err(error) = stream(b"\x07\x08\x09".to_vec()) else { panic!() };
    assert!(error.to_string().contains("07 08 09"), "{error}");
}

#[test]
fn a_missing_camera_is_an_error() {
    let spec = SourceSpec::Camera(CameraSpec { index: Some(4711), pixels: None });
    let error = open(&spec, SourceOptions::default()).err().unwrap();
    assert!(matches!(error, SourceError::NoCamera { index: Some(4711) }), "{error}");
    assert!(error.remedy().contains("pattern"));
    // Listing cameras succeeds whether or not there are any.
    let devices = list_devices().unwrap();
    assert!(devices.is_sorted_by_key(|device| device.index), "{devices:?}");
}

// The sink.

fn record(seconds: f64) -> FrameRecord {
    FrameRecord { width: 320, height: 180, received_at: seconds, ..FrameRecord::default() }
}

const ALL: [PictureFormat; 4] =
    [PictureFormat::H264, PictureFormat::Jpg, PictureFormat::Png, PictureFormat::Y4m];

#[test]
fn the_sink_writes_every_format_and_a_line() {
    let photo = photos()[0].fit(320, 180).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/frames");
    let mut writer = FrameWriter::new(&out, &ALL).unwrap();
    let unit = encoder(20_000).encode(&photo).unwrap().access_unit.data;
    let written = writer.write(&unit, Some(&photo), record(1.5)).unwrap();
    assert_eq!(written.files.len(), 4);
    assert_eq!(fs::read(out.join("000001.h264")).unwrap(), unit);
    for picture in ["000001.jpg", "000001.png"] {
        let back = read_picture(&out.join(picture)).unwrap();
        assert!(back.psnr_y(&photo).unwrap() > 32.0, "{picture}");
    }
    let mut y4m =
        open(&out.join("000001.y4m").to_str().unwrap().parse().unwrap(), SourceOptions::default())
            .unwrap();
    let Ok(Some(Captured::Frame(back))) = y4m.next() else { panic!() };
    assert_eq!(back.psnr_y(&photo), Some(f64::INFINITY));

    // A picture that could not be decoded is stored as received.
    let written = FrameWriter::new(&out, &[PictureFormat::Jpg])
        .unwrap()
        .write(b"broken", None, record(2.0))
        .unwrap();
    assert_eq!(written.record.file, "000002.h264");
    let lines = fs::read_to_string(out.join("frames.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let keys: Vec<&str> = first.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted = "seq file bytes width height rtpTimestamp captureTime receivedAt latencyMs clockOffsetMs packets retransmitted sha256 verified candidateType connectionType"
        .split(' ').collect::<Vec<_>>();
    wanted.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted);
    assert!(first["captureTime"].is_null() && first["retransmitted"] == 0);
    assert_eq!(first["bytes"], unit.len());
    let names = |dir: &Path| {
        fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    assert!(names(&out).iter().all(|name| !name.starts_with('.')), "{:?}", names(&out));
}

#[test]
fn a_new_run_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let h264 = [PictureFormat::H264];
    FrameWriter::new(dir.path(), &h264).unwrap().write(b"one", None, record(1.0)).unwrap();
    fs::write(dir.path().join("000041.png"), b"x").unwrap();
    fs::write(dir.path().join("000099.txt"), b"not ours").unwrap();
    let journal = dir.path().join("frames.jsonl");
    let mut torn = fs::read(&journal).unwrap();
    torn.extend(b"{\"seq\":2,\"fi");
    fs::write(&journal, &torn).unwrap();
    let mut writer = FrameWriter::new(dir.path(), &h264).unwrap();
    assert_eq!(writer.next_seq(), 42);
    writer.write(b"two", None, record(2.0)).unwrap();
    assert_eq!(fs::read(dir.path().join("000001.h264")).unwrap(), b"one");
    assert_eq!(fs::read(dir.path().join("000042.h264")).unwrap(), b"two");
    let text = fs::read_to_string(&journal).unwrap();
    let seqs: Vec<Option<u64>> = text
        .lines()
        .map(|line| serde_json::from_str::<FrameRecord>(line).ok().map(|record| record.seq))
        .collect();
    assert_eq!(seqs, [Some(1), None, Some(42)], "the incomplete line is separate");
    // The numbers of deleted files are not reused.
    fs::remove_file(dir.path().join("000042.h264")).unwrap();
    assert_eq!(FrameWriter::new(dir.path(), &h264).unwrap().next_seq(), 43);
}

#[test]
fn a_directory_that_cannot_be_created_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = FrameWriter::new(&path, &ALL).err().unwrap();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(error.remedy().contains("another name"), "{}", error.remedy());
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[test]
fn a_deleted_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("frames");
    let mut writer = FrameWriter::new(&out, &[PictureFormat::H264]).unwrap();
    writer.write(b"one", None, record(1.0)).unwrap();
    fs::remove_dir_all(&out).unwrap();
    let error = writer.write(b"two", None, record(2.0)).unwrap_err();
    assert!(error.to_string().contains("000002.h264"), "{error}");
    fs::create_dir(&out).unwrap();
    // The number is still free, and the journal is in the new directory.
    assert_eq!(writer.write(b"three", None, record(3.0)).unwrap().record.seq, 2);
    assert_eq!(fs::read_to_string(out.join("frames.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn the_pattern_is_about_as_hard_to_encode_as_a_photo() {
    let mut source = open(&"pattern".parse().unwrap(), SourceOptions::default()).unwrap();
    let mut encoder = encoder(BUDGET);
    let Ok(Some(Captured::Frame(frame))) = source.next() else { panic!() };
    let keyframe = encoder.encode(&frame).unwrap();
    println!("pattern: {} bytes at QP {}", keyframe.access_unit.data.len(), keyframe.qp);
    assert!((15.0..45.0).contains(&keyframe.qp), "QP {}", keyframe.qp);
    assert_eq!(keyframe.access_unit.captured_at, frame.captured_at);
    assert!(keyframe.encode_time > Duration::ZERO);
}
