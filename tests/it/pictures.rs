//! Pictures as people have them: photos with something behind them, streams with something between their
//! frames, files that are cut off, scans and colors of every kind.
//!
//! The values are those of Pillow 13.0.0 with libjpeg-turbo: means of red, green and blue over the cells
//! of a grid, 4 across and 3 down. The pictures were written by libjpeg-turbo's `cjpeg`.

use std::{
    fs,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use orion_peer::media::{
    Captured, Frame, Source, SourceError, SourceOptions,
    source::{open_stream, read_picture},
};

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

/// The means of a frame's cells.
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
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += usize::from(*value));
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

/// Reads a file with this content.
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
        Some(Captured::AccessUnit(_)) => panic!("pixels become no access unit"),
        None => None,
    };
    std::iter::from_fn(next).take(count).collect()
}

/// It is one picture, which repeats, and not a stream of several.
#[track_caller]
fn is_one(content: &[u8], expected: &Cells, what: &str) {
    looks_like(&read(content).unwrap(), expected, what);
    let found = frames(pipe(content).unwrap().as_mut(), 4);
    assert_eq!(found.len(), 4, "{what}: it is a stream");
    found.iter().for_each(|frame| looks_like(frame, expected, what));
}

#[test]
fn what_is_behind_a_photo_does_not_matter() {
    let photo = bytes("base.jpg");
    let preview = bytes("fig.jpg");
    // As in trailing-ffda.jpg and trailing-newline.jpg; the videos of motion photos; padding.
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
    // Endless data behind a photo is given up at some time.
    let endless = Cursor::new(photo).chain(std::io::repeat(b'.'));
    let source = open_stream(Box::new(endless), "standard input", SourceOptions::default());
    assert_eq!(frames(source.unwrap().as_mut(), 3).len(), 3);
}

/// A JPEG with one more segment behind its start marker.
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
        entry.iter().for_each(|value: &u32| payload.extend(value.to_be_bytes()));
    }
    payload
}

#[test]
fn the_second_picture_of_a_file_is_not_a_frame() {
    let (photo, other) = (bytes("base.jpg"), bytes("fig.jpg"));
    // A photo lists what is behind it: a stereo pair, or a photo with its gain map.
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
        // Several of them in a row are a stream of the first of each.
        let found = frames(pipe(&[&file[..], &file].concat()).unwrap().as_mut(), 9);
        assert_eq!(found.len(), 2, "{what}");
        found.iter().for_each(|frame| looks_like(frame, &BASE, what));
    }
    // Or the second says what it is.
    let eye = with_segment(&other, 0xe2, &mpf(None));
    is_one(&[&photo[..], &eye].concat(), &BASE, "the other eye");
    for namespace in
        ["http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/"]
    {
        let xmp = format!("http://ns.adobe.com/xap/1.0/\0<x xmlns:a=\"{namespace}\"/>");
        let map = with_segment(&other, 0xe1, xmp.as_bytes());
        is_one(&[&photo[..], &map].concat(), &BASE, namespace);
    }
    // Two photos in a row are two.
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
        found.iter().for_each(|frame| looks_like(frame, &BASE, padding));
    }
    let stream = [&frame[..], &[0xff, 0xd9]].concat().repeat(3);
    assert_eq!(frames(pipe(&stream).unwrap().as_mut(), 9).len(), 3);
    // One that is cut off is reported, and the others are given.
    let stream = [&frame[..], &frame[..700], &frame].concat();
    let mut source = pipe(&stream).unwrap();
    looks_like(&frames(source.as_mut(), 1)[0], &BASE, "in front of the damage");
    let error = source.next().unwrap_err();
    assert!(error.to_string().contains("cut off") && !error.is_final(), "{error}");
    assert_eq!(frames(source.as_mut(), 9).len(), 1);
}

#[test]
fn a_photo_without_its_end_marker_is_used_and_half_a_photo_is_not() {
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
        // Wherever it is cut, nothing gray is shown; also when somebody put an end marker there.
        for length in (3..photo.len() - 2).rev().step_by(13) {
            for end in [&[][..], &[0xff, 0xd9], &[0; 600]] {
                let cut = [&photo[..length], end].concat();
                match read(&cut) {
                    Ok(frame) => assert!(frame.y == whole.y, "{name}: {length}"),
                    Err(error) => {
                        let begun = length > photo.len() / 2;
                        assert!(!begun || error.to_string().contains("cut off"), "{error}");
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
fn huffman_tables_may_be_missing_anywhere() {
    let (without, with) = (bytes("no-dht.jpg"), bytes("base.jpg"));
    assert!(without.len() < with.len());
    is_one(&without, &BASE, "without tables");
    let stream = [&with[..], &without, &without].concat();
    let found = frames(pipe(&stream).unwrap().as_mut(), 9);
    assert_eq!(found.len(), 3);
    found.iter().for_each(|frame| looks_like(frame, &BASE, "of a stream"));
}
