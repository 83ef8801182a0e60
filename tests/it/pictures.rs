//! Pictures as found in practice: photos followed by other data, streams with data between their frames,
//! truncated files, and scans and colors of every kind.
//!
//! The expected values are from Pillow 13.0.0 with libjpeg-turbo: means of red, green and blue over the
//! cells of a grid, 4 across and 3 down. The pictures were written by libjpeg-turbo's `cjpeg`.

use std::{
    fs,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use orion_peer::media::{
    Captured, Colour, Decoder, EncoderConfig, Frame, FrameRecord, FrameWriter, KeyframeEncoder,
    PictureFormat, Source, SourceError, SourceOptions,
    source::{open_stream, read_picture},
};

use crate::run::Rig;

type Cells = [[u8; 3]; 12];

const BASE: Cells = [
    [31, 90, 40],
    [95, 90, 40],
    [159, 90, 40],
    [224, 90, 41],
    [30, 90, 127],
    [95, 90, 127],
    [159, 90, 127],
    [224, 90, 127],
    [30, 90, 213],
    [95, 90, 214],
    [159, 90, 213],
    [224, 90, 214],
];

const FIG: Cells = [
    [147, 146, 144],
    [95, 64, 55],
    [163, 64, 44],
    [181, 128, 121],
    [137, 130, 127],
    [187, 51, 22],
    [190, 66, 42],
    [152, 18, 8],
    [148, 142, 139],
    [168, 94, 89],
    [153, 33, 24],
    [135, 58, 54],
];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/pictures").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(data(name)).unwrap()
}

/// The mean colors of a frame's cells.
fn cells(frame: &Frame) -> Cells {
    let rgb = frame.to_rgb8().unwrap();
    let (width, height) = (frame.width as usize, frame.height as usize);
    std::array::from_fn(|cell| {
        let (column, row) = (cell % 4, cell / 4);
        let mut sums = [0_usize; 3];
        let mut count = 0;
        for y in row * height / 3..(row + 1) * height / 3 {
            for x in column * width / 4..(column + 1) * width / 4 {
                let pixel = &rgb[(y * width + x) * 3..][..3];
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += usize::from(*value);
                }
                count += 1;
            }
        }
        sums.map(|sum| ((sum + count / 2) / count) as u8)
    })
}

#[track_caller]
fn looks_like(frame: &Frame, expected: &Cells, what: &str) {
    let found = cells(frame);
    let off = found.as_flattened().iter().zip(expected.as_flattened());
    let off = off.map(|(found, expected)| found.abs_diff(*expected)).max().unwrap();
    assert!(off <= 3, "{what}: {found:?} is not {expected:?}");
}

/// Writes this content to a file and reads the picture.
fn read(content: &[u8]) -> Result<Frame, SourceError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photo.jpg");
    fs::write(&path, content).unwrap();
    read_picture(&path)
}

fn pipe(content: &[u8]) -> Result<Box<dyn Source>, SourceError> {
    let content = Cursor::new(content.to_vec());
    open_stream(Box::new(content), "standard input", SourceOptions::default())
}

/// The next `count` frames, or as many as there are.
fn frames(source: &mut dyn Source, count: usize) -> Vec<Frame> {
    let next = || match source.next().unwrap() {
        Some(Captured::Frame(frame)) => Some(frame),
        Some(Captured::AccessUnit(_)) => panic!("pixels must not yield an access unit"),
        None => None,
    };
    std::iter::from_fn(next).take(count).collect()
}

/// Asserts that the content is one picture, which is repeated, and not a stream of several.
#[track_caller]
fn is_one(content: &[u8], expected: &Cells, what: &str) {
    looks_like(&read(content).unwrap(), expected, what);
    let found = frames(pipe(content).unwrap().as_mut(), 4);
    assert_eq!(found.len(), 4, "{what}: it is a stream");
    for frame in &found {
        looks_like(frame, expected, what);
    }
}

#[test]
fn data_after_a_photo_does_not_matter() {
    let photo = bytes("base.jpg");
    let preview = bytes("fig.jpg");
    // Data as in trailing-ffda.jpg and trailing-newline.jpg, the videos of motion photos, and padding.
    let video = [&b"\0\0\0\x1cftypmp42"[..], &[0x5a; 5000], &preview, b"SEFHk\0\0\0SEFT"].concat();
    let trailers = [
        &b""[..],
        b"\xff\xda",
        b"\n",
        b"\xff\xd9",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        &[0; 4096],
        b"\xff\xda\xff\xda\0\x0c\xff",
        &video,
    ];
    for trailer in trailers {
        let shown = String::from_utf8_lossy(&trailer[..trailer.len().min(12)]);
        is_one(&[&photo, trailer].concat(), &BASE, &format!("a photo and {shown:?}"));
    }
    // Reading of endless data after a photo stops at some point.
    let endless = Cursor::new(photo).chain(std::io::repeat(b'.'));
    let source = open_stream(Box::new(endless), "standard input", SourceOptions::default());
    assert_eq!(frames(source.unwrap().as_mut(), 3).len(), 3);
}

/// A JPEG with an additional segment after its start marker.
fn with_segment(jpeg: &[u8], marker: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, payload, &jpeg[2..]].concat()
}

/// An MPF segment (CIPA DC-007) with an index of two pictures, the second `length` bytes at `offset` from
/// the byte order mark, or without an index.
fn mpf(index: Option<(u32, u32)>) -> Vec<u8> {
    let mut payload = b"MPF\0MM\0\x2a\0\0\0\x08".to_vec();
    let field = |tag: u16, kind: u16, count: u32, value: u32| {
        let (tag, kind) = (tag.to_be_bytes(), kind.to_be_bytes());
        [&tag[..], &kind, &count.to_be_bytes(), &value.to_be_bytes()].concat()
    };
    let Some((length, offset)) = index else {
        payload.extend([0, 1]);
        payload.extend(field(0xb101, 4, 1, 2));
        payload.extend([0; 4]);
        return payload;
    };
    payload.extend([0, 3]);
    payload.extend(field(0xb000, 7, 4, u32::from_be_bytes(*b"0100")));
    payload.extend(field(0xb001, 4, 1, 2));
    payload.extend(field(0xb002, 7, 32, 50));
    payload.extend([0; 4]);
    for entry in [[0x2003_0000, 700, 0, 0], [0x2_0002, length, offset, 0]] {
        payload.extend(entry.map(u32::to_be_bytes).as_flattened());
    }
    payload
}

#[test]
fn a_secondary_picture_in_a_file_is_not_a_frame() {
    let (photo, other) = (bytes("base.jpg"), bytes("fig.jpg"));
    // A photo may list the pictures after it, as in a stereo pair or a photo with a gain map.
    let begin = (with_segment(&photo, 0xe2, &mpf(Some((0, 0)))).len() - 10) as u32;
    let length = other.len() as u32;
    for (what, index, between) in [
        ("listed", (length, begin), 0),
        ("listed, after padding", (length, begin + 100), 100),
        ("listed, but moved", (length, begin + 77), 0),
        ("listed, but edited", (length + 77, begin), 0),
    ] {
        let first = with_segment(&photo, 0xe2, &mpf(Some(index)));
        let file = [first, vec![0; between], other.clone()].concat();
        is_one(&file, &BASE, what);
        // Several such files in a row are a stream of their first pictures.
        let found = frames(pipe(&[&file[..], &file].concat()).unwrap().as_mut(), 9);
        assert_eq!(found.len(), 2, "{what}");
        for frame in &found {
            looks_like(frame, &BASE, what);
        }
    }
    // Or the second picture identifies itself.
    let eye = with_segment(&other, 0xe2, &mpf(None));
    is_one(&[&photo[..], &eye].concat(), &BASE, "the second view");
    for namespace in
        ["http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/"]
    {
        let xmp = format!("http://ns.adobe.com/xap/1.0/\0<x xmlns:a=\"{namespace}\"/>");
        let map = with_segment(&other, 0xe1, xmp.as_bytes());
        is_one(&[&photo[..], &map].concat(), &BASE, namespace);
    }
    // Two unrelated photos in a row are two pictures.
    let found = frames(pipe(&[photo, other].concat()).unwrap().as_mut(), 9);
    assert_eq!(found.len(), 2);
    looks_like(&found[0], &BASE, "the first of two");
    looks_like(&found[1], &FIG, "the second of two");
}

#[test]
fn frames_of_a_stream_may_have_padding_between_them() {
    let frame = bytes("base.jpg");
    // As in trailing-2-zeros-then-jpeg.mjpeg, and others.
    for padding in
        ["", "\0\0", "\r\n", "\n", "\0\0\0\r\n", "\r\n--frame\r\nContent-Length: 879\r\n\r\n"]
    {
        let stream = [&frame[..], padding.as_bytes()].concat().repeat(3);
        let found = frames(pipe(&stream).unwrap().as_mut(), 9);
        assert_eq!(found.len(), 3, "{padding:?}");
        for frame in &found {
            looks_like(frame, &BASE, padding);
        }
    }
    let stream = [&frame[..], &[0xff, 0xd9]].concat().repeat(3);
    assert_eq!(frames(pipe(&stream).unwrap().as_mut(), 9).len(), 3);
    // A truncated frame is reported, and the others are delivered.
    let stream = [&frame[..], &frame[..700], &frame].concat();
    let mut source = pipe(&stream).unwrap();
    looks_like(&frames(source.as_mut(), 1)[0], &BASE, "before the damage");
    let error = source.next().unwrap_err();
    assert!(error.to_string().contains("cut off") && !error.is_final(), "{error}");
    assert_eq!(frames(source.as_mut(), 9).len(), 1);
}

#[test]
fn a_photo_without_an_end_marker_is_used_but_half_a_photo_is_not() {
    for (name, expected) in [
        ("base.jpg", BASE),
        ("fig.jpg", FIG),
        ("fig-progressive.jpg", FIG),
        ("fig-cb-cr-y-restarts.jpg", FIG),
        ("non-interleaved-420.jpg", BASE),
    ] {
        let photo = bytes(name);
        let whole = read(&photo).unwrap();
        looks_like(&whole, &expected, name);
        for length in [photo.len() - 2, photo.len() - 1] {
            assert!(read(&photo[..length]).unwrap().y == whole.y, "{name}: {length}");
            is_one(&photo[..length], &expected, name);
        }
        // Wherever it is cut, no gray is shown, even if an end marker was added there.
        for length in (3..photo.len() - 2).rev().step_by(13) {
            for end in [&[][..], &[0xff, 0xd9], &[0; 600]] {
                let cut = [&photo[..length], end].concat();
                match read(&cut) {
                    // A progressive picture may end after any scan with an end marker; it is then less
                    // sharp.
                    Ok(frame) => {
                        let may = name.contains("progressive") && end.len() == 2;
                        let least = if may { 14.0 } else { 90.0 };
                        let psnr = frame.psnr_y(&whole).unwrap();
                        assert!(psnr > least, "{name}: {length}: {psnr} dB");
                    }
                    Err(error) => {
                        let has_started = length > photo.len() / 2;
                        assert!(!has_started || error.to_string().contains("cut off"), "{error}");
                        assert!(pipe(&cut).is_err(), "{name}: {length}");
                    }
                }
            }
        }
    }
}

#[test]
fn scans_of_every_kind_are_decoded() {
    for (name, expected) in [
        ("non-interleaved-420.jpg", BASE),
        ("fig-cb-cr-y-restarts.jpg", FIG),
        ("fig-y-cbcr-422.jpg", FIG),
        ("fig-progressive.jpg", FIG),
    ] {
        is_one(&bytes(name), &expected, name);
    }
    // The same coefficients give the same pixels.
    let pixels = |name: &str| {
        let frame = read_picture(&data(name)).unwrap();
        (frame.y, frame.u, frame.v)
    };
    assert_eq!(pixels("non-interleaved-420.jpg"), pixels("base.jpg"));
    assert_eq!(pixels("fig-cb-cr-y-restarts.jpg"), pixels("fig.jpg"));
}

#[test]
fn huffman_tables_may_be_missing_in_files_and_streams() {
    let (without, with) = (bytes("no-dht.jpg"), bytes("base.jpg"));
    assert!(without.len() < with.len());
    is_one(&without, &BASE, "without tables");
    let stream = [&with[..], &without, &without].concat();
    let found = frames(pipe(&stream).unwrap().as_mut(), 9);
    assert_eq!(found.len(), 3);
    for frame in &found {
        looks_like(frame, &BASE, "of a stream");
    }
}

// Colors.

/// `fig-display-p3.jpg` converted to sRGB by littlecms 2.19 through Pillow; without conversion, its
/// cells are 147, 146, 144 to 191, 66, 42.
const FIG_P3: Cells = [
    [148, 146, 144],
    [97, 60, 53],
    [176, 44, 41],
    [186, 122, 120],
    [136, 129, 127],
    [205, 30, 14],
    [206, 49, 30],
    [167, 5, 4],
    [148, 143, 137],
    [175, 89, 87],
    [167, 24, 19],
    [143, 52, 51],
];

/// `half-transparent.png`, magenta and red that fade in from the top, blended with white by Pillow.
const FADED: Cells = [
    [255, 215, 255],
    [255, 215, 255],
    [255, 215, 215],
    [255, 215, 215],
    [255, 128, 255],
    [255, 128, 255],
    [255, 128, 128],
    [255, 128, 128],
    [255, 41, 255],
    [255, 41, 255],
    [255, 41, 41],
    [255, 41, 41],
];

/// `full-range.y4m` converted to a picture by ffmpeg 5.1.9.
const FULL: Cells = {
    let (dark, light) = ([20; 3], [240; 3]);
    [dark, dark, light, light, dark, dark, light, light, dark, dark, light, light]
};

#[test]
fn color_profiles_are_converted() {
    is_one(&bytes("fig-display-p3.jpg"), &FIG_P3, "a JPEG in Display P3");
    // The same profile in a PNG.
    let picture = image::open(data("fig-display-p3.jpg")).unwrap();
    let file = Cursor::new(bytes("fig-display-p3.jpg"));
    let mut decoder = image::codecs::jpeg::JpegDecoder::new(file).unwrap();
    let profile = image::ImageDecoder::icc_profile(&mut decoder).unwrap().unwrap();
    let mut png = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
    image::ImageEncoder::set_icc_profile(&mut encoder, profile).unwrap();
    picture.write_with_encoder(encoder).unwrap();
    is_one(&png, &FIG_P3, "a PNG in Display P3");
}

#[test]
fn transparent_parts_are_shown_on_white() {
    is_one(&bytes("all-transparent-magenta.png"), &[[255; 3]; 12], "fully transparent");
    is_one(&bytes("half-transparent.png"), &FADED, "half transparent");
}

#[test]
fn every_format_has_the_same_colors() {
    let mut source = pipe(&bytes("full-range.y4m")).unwrap();
    let full = frames(source.as_mut(), 1).remove(0);
    looks_like(&full, &FULL, "full-range.y4m");
    // The picture in other color spaces, which third-party streams may use.
    let fig = read_picture(&data("fig.jpg")).unwrap();
    let wide = Colour { full_range: true, primaries: 12, transfer: 13, matrix: 1 };
    for (frame, colour) in [
        (full.clone(), full.colour),
        (fig.clone(), fig.colour),
        (fig.clone(), Colour { matrix: 1, ..fig.colour }),
        (fig.clone(), Colour { full_range: true, matrix: 9, ..fig.colour }),
        (fig, wide),
    ] {
        // The samples stay the same, but are interpreted as other colors.
        let frame = Frame { colour, ..frame };
        let expected = cells(&frame);
        let mut encoder = KeyframeEncoder::new(EncoderConfig::default()).unwrap();
        let unit = encoder.encode(&frame).unwrap().access_unit.data;
        let received = Decoder::new().unwrap().decode(&unit).unwrap();
        let coded = if colour == wide { Colour { primaries: 2, ..wide } } else { colour };
        assert_eq!(received.colour, coded, "the VUI");
        looks_like(&received, &expected, &format!("the stream, {colour}"));

        let dir = tempfile::tempdir().unwrap();
        let formats = [PictureFormat::Jpg, PictureFormat::Png, PictureFormat::Y4m];
        let mut writer = FrameWriter::new(dir.path(), &formats).unwrap();
        let written = writer.write(&unit, Some(&received), FrameRecord::default()).unwrap();
        assert_eq!(written.colour, Some(coded));
        for name in ["000001.jpg", "000001.png"] {
            let back = read_picture(&dir.path().join(name)).unwrap();
            looks_like(&back, &expected, &format!("{name}, {colour}"));
        }
        let y4m = fs::read(dir.path().join("000001.y4m")).unwrap();
        let back = frames(pipe(&y4m).unwrap().as_mut(), 1).remove(0);
        assert_eq!(back.colour.full_range, colour.full_range);
        looks_like(&back, &expected, &format!("y4m, {colour}"));
    }
    // JPEG and PNG files specify the primaries; when read again, the picture is in sRGB.
    let p3 = Frame { colour: wide, ..read_picture(&data("fig-display-p3.jpg")).unwrap() };
    let dir = tempfile::tempdir().unwrap();
    let formats = [PictureFormat::Jpg, PictureFormat::Png];
    let mut writer = FrameWriter::new(dir.path(), &formats).unwrap();
    writer.write(b"", Some(&p3), FrameRecord::default()).unwrap();
    for name in ["000001.jpg", "000001.png"] {
        let raw = image::open(dir.path().join(name)).unwrap().into_rgb8();
        let raw = Frame::from_rgb8(raw.width(), raw.height(), &raw, p3.captured_at).unwrap();
        looks_like(&raw, &cells(&p3), name);
        let back = cells(&read_picture(&dir.path().join(name)).unwrap());
        assert!(back[6][0] > cells(&p3)[6][0] + 5, "{name}: {back:?} is more saturated");
    }
}

#[test]
fn sender_and_receiver_report_notices_and_colors() {
    let rig = Rig::new();
    let photo = bytes("base.jpg");
    fs::write(rig.path("endless.jpg"), &photo[..photo.len() - 2]).unwrap();
    fs::write(rig.path("half.jpg"), &photo[..photo.len() - 130]).unwrap();
    for name in ["full-range.y4m", "all-transparent-magenta.png"] {
        fs::copy(data(name), rig.path(name)).unwrap();
    }
    for (name, range, warning) in [
        ("endless.jpg", "limited", "no end marker"),
        ("all-transparent-magenta.png", "limited", "shown on white"),
        ("full-range.y4m", "full", ""),
    ] {
        let out = name.replace('.', "-");
        let recv = rig.recv(&out, &["--count", "1", "--format", "y4m"]);
        let sent = rig.send(name, &["--count", "1"]).end();
        sent.well();
        assert!(sent.stderr.contains(warning), "{name}: {}", sent.stderr);
        let received = recv.end();
        let keyframe = received.well().into_iter().find(|line| line["kind"] == "keyframe").unwrap();
        let expected = serde_json::json!({
            "range": range, "primaries": "bt709", "transfer": "iec61966-2-1", "matrix": "smpte170m",
        });
        assert_eq!(keyframe["color"], expected, "{name}");
        let line = format!("colors: {range} range, bt709 primaries, smpte170m matrix");
        assert!(received.stderr.contains(&line), "{name}: {}", received.stderr);
        let y4m = fs::read(rig.path(&out).join("000001.y4m")).unwrap();
        let header = String::from_utf8_lossy(&y4m[..90.min(y4m.len())]).into_owned();
        let range = range.to_uppercase();
        assert!(header.contains(&format!("XCOLORRANGE={range}\n")), "{header}");
        let found = frames(pipe(&y4m).unwrap().as_mut(), 1).remove(0);
        let expected = match name {
            "endless.jpg" => BASE,
            "full-range.y4m" => FULL,
            _ => [[255; 3]; 12],
        };
        looks_like(&found, &expected, name);
    }
    let error = rig.send("half.jpg", &["--count", "1"]).end().failed(1, "source");
    assert!(error["message"].as_str().unwrap().contains("cut off"), "{error}");
}
