//! Streams and files as found in practice: recognized by content and not by name, sent unchanged or
//! rejected before a call, and reported by name if their format is not supported.
//!
//! The fixtures in `data/streams` were created with ffmpeg 5.1 and libx264; the decoded pictures are
//! compared with ffmpeg's output.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use orion_peer::{
    media::{
        Captured, DecodeError, Decoder, Frame, Source, SourceError, SourceOptions, SourceSpec,
        decoder,
        h264::{AccessUnit, AccessUnitSplitter, is_intra, is_keyframe},
        source::{open, open_stream},
    },
    peer::PeerRole,
    session::CallEvent,
};

use crate::{
    bad_input::{block_on, message, open as open_link, send, test_peer, unused_server},
    run::{Rig, follow, run, sample},
};

fn data(name: &str) -> Vec<u8> {
    fs::read(data_path(name)).unwrap()
}

fn data_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/streams").join(name)
}

fn units(stream: &[u8]) -> Vec<Bytes> {
    let mut splitter = AccessUnitSplitter::default();
    splitter.push(stream);
    splitter.finish();
    std::iter::from_fn(|| splitter.pop()).collect()
}

fn pipe(content: Vec<u8>) -> Result<Box<dyn Source>, SourceError> {
    open_stream(Box::new(Cursor::new(content)), "standard input", SourceOptions::default())
}

fn file(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    let spec = SourceSpec::from_os_str(path.as_os_str()).unwrap();
    open(&spec, SourceOptions::default())
}

/// The keyframes of a source that ends.
fn keyframes(source: &mut dyn Source) -> Vec<Bytes> {
    let next = || match source.next().unwrap() {
        Some(Captured::AccessUnit(unit)) => Some(unit.data),
        Some(Captured::Frame(_)) => panic!("H.264 is not decoded"),
        None => None,
    };
    std::iter::from_fn(next).collect()
}

fn is_frame(source: &mut dyn Source) -> bool {
    matches!(source.next(), Ok(Some(Captured::Frame(_))))
}

// H.264.

#[test]
fn zeros_around_a_stream_do_not_matter() {
    let given = data("three-leading-zeros.h264");
    assert!(given.starts_with(&[0, 0, 0, 0, 0]), "three zeros more than in the start code");
    let plain = data("progressive.h264");
    let delimited: Vec<u8> =
        units(&plain).iter().flat_map(|unit| [&[0, 0, 0, 1, 9, 0x10][..], unit].concat()).collect();
    let dir = tempfile::tempdir().unwrap();
    for (name, stream) in [("given", &given), ("plain", &plain), ("delimited", &delimited)] {
        let expected: Vec<Bytes> =
            units(stream).into_iter().filter(|unit| is_keyframe(unit)).collect();
        assert!(!expected.is_empty(), "{name}");
        for (leading, trailing) in [(0, 0), (1, 1), (3, 5), (70, 4_000), (5_000, 0)] {
            let padded = [&vec![0; leading][..], stream, &vec![0; trailing]].concat();
            let what = format!("{name} after {leading} and before {trailing} zeros");
            assert_eq!(keyframes(pipe(padded.clone()).unwrap().as_mut()), expected, "{what}");
            let path = dir.path().join(name);
            fs::write(&path, padded).unwrap();
            assert_eq!(keyframes(file(&path).unwrap().as_mut()), expected, "{what}, as a file");
        }
    }
    for content in [vec![0; 100], vec![0; 100_000]] {
        let error = pipe(content).err().unwrap().to_string();
        assert!(error.contains("only zeros"), "{error}");
    }
}

#[test]
fn grayscale_is_cropped_by_single_lines() {
    // Luma by ffmpeg 5.1 (`-flags unaligned -pix_fmt yuv420p`), chroma 128.
    for (name, size, corners) in [
        ("gray-64x54.h264", (64, 54), [1, 63, 159, 222]),
        ("gray-57x43.h264", (56, 42), [18, 73, 141, 196]),
    ] {
        let unit = &units(&data(name))[0];
        let frame = Decoder::new().unwrap().decode(unit).unwrap();
        assert_eq!((frame.width, frame.height), size, "{name}");
        let (w, h) = (size.0 as usize, size.1 as usize);
        let found = [frame.y[0], frame.y[w - 1], frame.y[w * (h - 1)], frame.y[w * h - 1]];
        let off = found.iter().zip(corners).map(|(found, expected)| found.abs_diff(expected));
        assert!(off.max() <= Some(1), "{name}: {found:?}");
        assert!(frame.u.iter().chain(&frame.v).all(|chroma| *chroma == 128), "{name}");
        assert_eq!((frame.u.len(), frame.v.len()), (w * h / 4, w * h / 4));
    }
    // Parameter sets are kept, and the next stream is cropped according to its own.
    let mut decoder = Decoder::new().unwrap();
    let mut decode = |unit: &[u8]| decoder.decode(unit).map(|frame| (frame.width, frame.height));
    assert_eq!(decode(&units(&data("gray-57x43.h264"))[0]).unwrap(), (56, 42));
    assert_eq!(decode(&units(&data("progressive.h264"))[0]).unwrap(), (64, 48));
    assert_eq!(decode(&units(&data("gray-64x54.h264"))[0]).unwrap(), (64, 54));
}

/// Streams that `OpenH264` does not decode, and the error for each.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("high-422.h264", "High 4:2:2 Intra is not supported by OpenH264 (4:2:2, 10 bits)"),
    ("high-10.h264", "High 10 Intra is not supported by OpenH264 (4:2:0, 10 bits)"),
    ("high-444.h264", "High 4:4:4 Intra is not supported by OpenH264 (4:4:4, 8 bits)"),
    ("mbaff.h264", "interlaced video is not supported by OpenH264 (High profile)"),
];

#[test]
fn unsupported_streams_are_rejected_by_send() {
    let dir = tempfile::tempdir().unwrap();
    for (name, words) in UNSUPPORTED {
        let unit = &units(&data(name))[0];
        for result in [decoder::check(unit), Decoder::new().unwrap().decode(unit).map(|_| ())] {
            let error = result.unwrap_err();
            assert!(matches!(error, DecodeError::Unsupported { .. }) && error.is_of_stream());
            assert_eq!(error.to_string(), words);
        }
        // No server listens at the signaling URL, so `send` fails because of the source.
        fs::write(dir.path().join(name), data(name)).unwrap();
        let error = send(dir.path(), name).failed(1, "source");
        assert!(message(&error).contains(name) && message(&error).contains(words), "{error}");
        assert!(error["remedy"].as_str().unwrap().contains("format=yuv420p"), "{error}");
    }
    for name in ["progressive.h264", "fake-interlaced.h264", "gray-64x54.h264"] {
        let units = units(&data(name));
        let result = decoder::check(&units[0]);
        let decodes = Decoder::new().unwrap().decode(&units[0]).is_ok();
        assert_eq!(result.is_ok(), decodes, "{name}: {result:?}");
    }
}

#[test]
fn recv_reports_once_that_a_stream_cannot_be_decoded() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "4"]);
    let unit = units(&data("high-422.h264"))[0].clone();
    // A picture between keyframes, which such streams contain.
    let between = units(&data("open-gop.h264")).into_iter().find(|unit| !is_intra(unit)).unwrap();
    block_on(async {
        let mut link = test_peer(&rig, "phone", PeerRole::Sender);
        open_link(&mut link).await;
        let peer = link.peer().unwrap();
        let drain = tokio::spawn(async move {
            while !matches!(link.next().await, CallEvent::Bye(..)) {}
            link.close("test").await;
        });
        for data in [&unit, &between, &unit, &between, &unit, &unit] {
            let (data, captured_at) = (data.clone(), SystemTime::now());
            let unit = AccessUnit { data, width: 64, height: 48, captured_at };
            peer.send_access_unit(&unit).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        drain.await.unwrap();
    });
    let received = recv.end();
    received.well();
    let said = received.stderr.matches("High 4:2:2 Intra is not supported by OpenH264").count();
    assert_eq!(said, 1, "{}", received.stderr);
    assert!(!received.stderr.contains("requesting another"), "{}", received.stderr);
    // Keyframes are counted, but not the pictures between them.
    let keyframes = &received.summary()["keyframes"];
    assert_eq!((&keyframes["received"], &keyframes["broken"]), (&4.into(), &4.into()));
    assert_eq!(fs::read(rig.path("frames/000002.h264")).unwrap(), unit);
    assert!(!rig.path("frames/000001.jpg").exists());
}

#[test]
fn keyframes_of_a_file_over_the_budget_are_sent_unchanged() {
    let rig = Rig::new();
    let expected = units(&data("three-leading-zeros.h264"));
    let expected: Vec<&Bytes> = expected.iter().filter(|unit| is_keyframe(unit)).collect();
    assert!(expected.iter().all(|unit| unit.len() > 1_000));
    let count = expected.len().to_string();
    let recv = rig.recv("frames", &["--count", &count]);
    let source = data_path("three-leading-zeros.h264");
    let sent = rig.send(source.to_str().unwrap(), &["--max-bytes", "1KB"]).end();
    sent.well();
    recv.end().well();
    for (number, unit) in expected.iter().enumerate() {
        let received = fs::read(rig.path(&format!("frames/{:06}.h264", number + 1))).unwrap();
        assert!(received == **unit, "keyframe {} was changed", number + 1);
    }
    let said = format!("keyframe 1: {} bytes are over the budget of 1000", expected[0].len());
    assert!(sent.stderr.contains(&said), "{}", sent.stderr);
    assert_eq!(sent.stderr.matches("over the budget").count(), 1, "{}", sent.stderr);
}

#[test]
fn intra_pictures_of_open_gops_are_counted() {
    // The stream has three, according to `ffprobe -show_entries frame=pict_type`.
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "1"]);
    let source = data_path("open-gop.h264");
    let sent = rig.send(source.to_str().unwrap(), &[]).end();
    assert_eq!(sent.summary()["keyframes"]["sent"], 1);
    recv.end().well();
    assert!(sent.stderr.contains("3 non-IDR intra pictures"), "{}", sent.stderr);
    // Without its IDR picture there is no keyframe.
    let stream: Vec<u8> = units(&data("open-gop.h264"))
        .into_iter()
        .filter(|unit| !is_keyframe(unit))
        .flatten()
        .collect();
    let error = pipe(stream).err().unwrap();
    assert!(matches!(error, SourceError::NoKeyframe { intra: 3, .. }), "{error}");
    assert!(error.to_string().contains("none of its 3 intra pictures is an IDR"), "{error}");
    assert!(error.remedy().contains("open-gop=0"));
}

// Detection by content, not by name.

/// A picture of one color in this format.
fn picture(format: image::ImageFormat) -> Vec<u8> {
    let mut data = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(64, 48, image::Rgb([200, 40, 90]));
    picture.write_to(&mut data, format).unwrap();
    data.into_inner()
}

fn y4m(frames: usize) -> Vec<u8> {
    let frame = [&b"FRAME\n"[..], &[99; 64 * 48 * 3 / 2]].concat();
    [&b"YUV4MPEG2 W64 H48 F5:1\n"[..], &frame.repeat(frames)].concat()
}

#[test]
fn names_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let jpeg = fs::read(sample("fig.jpg")).unwrap();
    let contents = [
        ("y4m", y4m(2)),
        ("jpeg", jpeg.clone()),
        ("mjpeg", [&jpeg[..], &jpeg].concat()),
        ("png", picture(image::ImageFormat::Png)),
        ("webp", picture(image::ImageFormat::WebP)),
    ];
    for name in
        ["photo", "PHOTO.JPG", "clip.bin", "x.h264", "x.y4m", ".hidden", "a b.Png", "pattern"]
    {
        let path = dir.path().join(name);
        for (kind, content) in &contents {
            fs::write(&path, content).unwrap();
            let mut source = file(&path).unwrap();
            assert!(is_frame(source.as_mut()), "{kind} named {name}");
        }
        fs::write(&path, data("progressive.h264")).unwrap();
        assert_eq!(keyframes(file(&path).unwrap().as_mut()).len(), 2, "H.264 named {name}");
        fs::write(&path, b"").unwrap();
        let error = file(&path).err().unwrap();
        assert!(matches!(error, SourceError::Empty { .. }), "{name}: {error}");
        assert!(error.to_string().ends_with("is empty") && !error.remedy().is_empty());
    }
}

#[test]
fn webp_is_read_like_png() {
    let found = |format| {
        let mut source = pipe(picture(format)).unwrap();
        match source.next() {
            Ok(Some(Captured::Frame(frame))) => {
                Frame { captured_at: SystemTime::UNIX_EPOCH, ..frame }
            }
            other => panic!("{format:?}: {other:?}"),
        }
    };
    assert_eq!(found(image::ImageFormat::WebP), found(image::ImageFormat::Png));
}

#[test]
fn unsupported_formats_are_reported_with_a_command_that_converts_them() {
    let dir = tempfile::tempdir().unwrap();
    let transport = data("transport.h264");
    let heic = [&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], &[0; 900]].concat();
    let mp4 = [&b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41"[..], &[0; 900]].concat();
    let hevc = [&[0, 0, 0, 1, 0x40, 1, 0x0c, 1, 0xff, 0xff][..], &[9; 900]].concat();
    for (name, content, looks, command) in [
        (
            "clip.h264",
            &transport,
            "MPEG transport stream",
            "ffmpeg -i clip.h264 -map 0:v:0 -c copy",
        ),
        ("IMG_1.jpg", &heic, "HEIC", "sips -s format jpeg IMG_1.jpg --out out.jpg"),
        ("clip.h264", &mp4, "MP4", "ffmpeg -i clip.h264 -map 0:v:0 -c copy"),
        ("clip.h264", &hevc, "H.265", "ffmpeg -v error -i clip.h264"),
        ("page.png", &b"%PDF-1.4\n%\xe2\xe3".to_vec(), "PDF", "pdftoppm"),
        ("x.y4m", &b"not a video\n".to_vec(), "text", "JPEG, PNG or WebP"),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
        let error = send(dir.path(), name).failed(1, "source");
        let expected = format!("{name} is not a supported picture or stream: it looks like ");
        assert!(message(&error).starts_with(&expected), "{error}");
        assert!(message(&error).contains(looks), "{name}: {error}");
        assert!(error["remedy"].as_str().unwrap().contains(command), "{name}: {error}");
        // Also on stdin, where the command has no file name.
        let error = pipe(content.clone()).err().unwrap();
        assert!(error.to_string().contains(looks), "{error}");
        assert!(!error.remedy().contains(name), "{}", error.remedy());
    }
}

#[test]
fn pictures_in_a_directory_are_found_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &std::ffi::OsStr, content: &[u8]| {
        fs::write(dir.path().join(name), content).unwrap();
    };
    write("notes.txt".as_ref(), b"not a picture");
    write("clip.h264".as_ref(), &data("progressive.h264"));
    let heic = [&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], &[0; 900]].concat();
    write("IMG_2.HEIC".as_ref(), &heic);
    let error = file(dir.path()).err().unwrap();
    assert!(matches!(error, SourceError::NoReadablePicture { count: 1, .. }), "{error}");
    assert!(error.to_string().contains("HEIC") && error.remedy().contains("sips"), "{error}");
    write("a".as_ref(), &picture(image::ImageFormat::Png));
    write("B.JPEG".as_ref(), &fs::read(sample("fig.jpg")).unwrap());
    write("c.dat".as_ref(), &picture(image::ImageFormat::WebP));
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        write(std::ffi::OsStr::from_bytes(b"caf\xe9"), &picture(image::ImageFormat::Png));
    }
    let mut source = file(dir.path()).unwrap();
    let count = if cfg!(unix) { 5 } else { 4 };
    assert!(source.describe().starts_with(&format!("{count} pictures")), "{}", source.describe());
    assert!((0..10).all(|_| is_frame(source.as_mut())));
}

#[cfg(unix)]
#[test]
fn named_pipes_are_read_once() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join(std::ffi::OsStr::from_bytes(b"p\xefpe"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (path, content) = (fifo.clone(), data("progressive.h264"));
    // Writing fails if the pipe is opened a second time and closed.
    let writer = std::thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
        pipe.write_all(&content).unwrap();
    });
    assert_eq!(keyframes(file(&fifo).unwrap().as_mut()).len(), 2);
    writer.join().unwrap();
}

#[cfg(unix)]
#[test]
fn send_reads_pipes_from_a_shell_and_stdin() {
    let rig = Rig::new();
    let photo = sample("fig.jpg");
    fs::write(rig.path("two.y4m"), y4m(2)).unwrap();
    let send = |source: &str| {
        format!(
            "exec {} send --json --signal {} --interval 0.2s --count 2 --source {source}",
            env!("CARGO_BIN_EXE_orion-peer"),
            rig.signal
        )
    };
    for (number, script) in [
        format!("{} < two.y4m", send("/dev/stdin")),
        format!("cat two.y4m | {{ {}; }}", send("/dev/stdin")),
        format!("cat '{photo}' | {{ {}; }}", send("/dev/fd/0")),
        send(&format!("<(cat '{photo}')")),
        send("<(cat two.y4m)"),
        // Latin-1 file names of the source and of the directory for `--save`.
        format!("cp '{photo}' $'caf\\xe9'; {} --save $'sav\\xe9'", send("$'caf\\xe9'")),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("frames-{number}");
        let recv = rig.recv(&out, &["--count", "2"]);
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(&rig.dir);
        let mut sender = follow(script.clone(), command);
        sender.end_input();
        let sent = sender.end();
        assert_eq!(sent.code, Some(0), "{script}\n{}", sent.stderr);
        assert_eq!(sent.summary()["keyframes"]["sent"], 2, "{script}");
        recv.end().well();
    }
    let recv = run(&rig.dir.path().join("frames-0"), &["send", "--source", "pattrn"]);
    assert_eq!(recv.code, Some(2), "{}", recv.stderr);
    assert!(recv.stderr.contains("`pattrn` is not a valid source"), "{}", recv.stderr);
    let error = send_without_server(&rig, "missing.mp4");
    assert!(error.contains("cannot open missing.mp4"), "{error}");
}

fn send_without_server(rig: &Rig, source: &str) -> String {
    let words = ["send", "--json", "--signal", &unused_server(), "--source", source];
    message(&run(rig.dir.path(), &words).failed(1, "source")).to_owned()
}
