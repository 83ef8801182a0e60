//! The encoder compared with x264: how well keyframes fill the budget, in how many
//! passes, and PSNR and SSIM next to `x264 --preset medium --profile baseline` at the same size.
//!
//! Prints a table in Markdown, and exits with 1 when a target is missed. `scripts/quality.sh` fetches the
//! photos and runs it; by hand: `cargo bench --bench quality -- DIR`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::SystemTime,
};

use orion_peer::media::{
    EncoderConfig, Frame, KeyframeEncoder, Quality,
    h264::{NalType, nal_type, nal_units},
    source::read_picture,
};

type Error = Box<dyn std::error::Error>;

const SIZES: [(u32, u32); 2] = [(1280, 720), (1920, 1080)];
/// Minimum number of photos for a meaningful result.
const MIN_PHOTOS: usize = 20;
/// Number of keyframes of a scene after its first.
const STEADY: u64 = 4;

/// The targets: mean share of the budget, median passes in a steady scene, dB behind x264.
const MIN_FILL: f64 = 0.93;
const MAX_STEADY_PASSES: f64 = 2.0;
const MAX_BEHIND: f64 = 0.25;

/// Measurements of one photo.
struct Row {
    bytes: usize,
    budget: usize,
    cold_passes: u32,
    cold_ms: f64,
    steady: Vec<(u32, f64)>,
    ours: Quality,
    x264: Quality,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quality: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Error> {
    let dir = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let dir =
        dir.ok_or("specify a directory of photos, or run scripts/quality.sh, which fetches some")?;
    let photos = photos(Path::new(&dir))?;
    if photos.len() < MIN_PHOTOS {
        return Err(format!("{} photos in {dir}; the minimum is {MIN_PHOTOS}", photos.len()).into());
    }
    println!(
        "| picture | photos | over budget | fill: mean (min) | passes: new scene, steady | \
         ms: new scene, steady | PSNR-Y, dB: ours, x264, difference (worst) | SSIM: ours, x264 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for size in SIZES {
        let rows = measure(&photos, size)?;
        println!("{}", table_row(size, &rows));
        missed.extend(misses(size, &rows));
    }
    for miss in &missed {
        eprintln!("quality: target missed: {miss}");
    }
    Ok(missed.is_empty())
}

fn photos(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "jpg" || end == "png") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn measure(photos: &[PathBuf], size: (u32, u32)) -> Result<Vec<Row>, Error> {
    let config = EncoderConfig::default();
    // One encoder for all photos: each photo is a scene change.
    let mut encoder = KeyframeEncoder::new(config)?;
    let mut rows = Vec::new();
    for path in photos {
        let frame = filled(&read_picture(path)?, size)?;
        let cold = encoder.encode(&frame)?;
        let mut steady = Vec::new();
        for seed in 0..STEADY {
            let keyframe = encoder.encode(&grainy(&frame, seed))?;
            steady.push((keyframe.passes, ms(keyframe.encode_time)));
        }
        let data = &cold.access_unit.data;
        let ours = Quality::of_keyframe(&frame, data)?.ok_or("the picture is too small")?;
        let x264 = x264_at(&frame, coded_bytes(data), cold.qp)?;
        eprintln!(
            "{}x{} {}: {} bytes at QP {:.1} in {} passes, {:.2} dB, x264 {:.2} dB",
            size.0,
            size.1,
            path.file_name().unwrap_or_default().display(),
            data.len(),
            cold.qp,
            cold.passes,
            ours.psnr_y,
            x264.psnr_y
        );
        rows.push(Row {
            bytes: data.len(),
            budget: config.max_bytes,
            cold_passes: cold.passes,
            cold_ms: ms(cold.encode_time),
            steady,
            ours,
            x264,
        });
    }
    Ok(rows)
}

fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The center of the picture, scaled to fill this size.
fn filled(photo: &Frame, (width, height): (u32, u32)) -> Result<Frame, Error> {
    let (w, h) = (photo.width, photo.height);
    let (cw, ch) =
        if w * height > h * width { (h * width / height, h) } else { (w, w * height / width) };
    let (cw, ch) = (cw & !1, ch & !1);
    let (x, y) = (((w - cw) / 4 * 2) as usize, ((h - ch) / 4 * 2) as usize);
    let stride = w as usize;
    let half = y / 2 * (stride / 2) + x / 2;
    let planes = [
        (&photo.y[y * stride + x..], stride),
        (&photo.u[half..], stride / 2),
        (&photo.v[half..], stride / 2),
    ];
    Ok(Frame::from_planes((cw, ch), planes, SystemTime::UNIX_EPOCH)?.resize(width, height)?)
}

/// The next picture of the same scene from a camera: every pixel differs by at most one.
fn grainy(frame: &Frame, seed: u64) -> Frame {
    let mut state = seed;
    let mut grain = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 60) as u8 % 3
    };
    let y = frame.y.iter().map(|y| y.saturating_add(grain()).max(1) - 1).collect();
    Frame { y, ..frame.clone() }
}

/// Size of an access unit in bytes, without the SEI in which x264 identifies itself.
fn coded_bytes(annex_b: &[u8]) -> usize {
    let coded = nal_units(annex_b).filter(|nal| nal_type(nal) != NalType::Sei);
    coded.map(|nal| nal.len() + 4).sum()
}

/// The quality that x264 reaches with this many bytes, interpolated by ln(size) between its two nearest
/// QPs.
fn x264_at(frame: &Frame, bytes: usize, near_qp: f64) -> Result<Quality, Error> {
    let target = (bytes as f64).ln();
    let at = |qp: u8| -> Result<(f64, Quality), Error> {
        let data = x264(frame, qp)?;
        let quality = Quality::of_keyframe(frame, &data)?.ok_or("the picture is too small")?;
        Ok(((coded_bytes(&data) as f64).ln(), quality))
    };
    let mut qp = (near_qp.round() as u8).clamp(2, 50);
    let mut here = at(qp)?;
    let down = here.0 < target;
    // QP 0 is lossless, which baseline does not support.
    while (2..51).contains(&qp) {
        let next_qp = if down { qp - 1 } else { qp + 1 };
        let next = at(next_qp)?;
        if (next.0 < target) != down {
            let share = (target - here.0) / (next.0 - here.0);
            let between = |a: f64, b: f64| a + (b - a) * share;
            return Ok(Quality {
                psnr_y: between(here.1.psnr_y, next.1.psnr_y),
                ssim_y: between(here.1.ssim_y, next.1.ssim_y),
            });
        }
        (qp, here) = (next_qp, next);
    }
    Ok(here.1)
}

/// One keyframe from x264, tuned for PSNR, which is the metric compared.
fn x264(frame: &Frame, qp: u8) -> Result<Vec<u8>, Error> {
    let size = format!("{}x{}", frame.width, frame.height);
    let qp = qp.to_string();
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p"])
        .args(["-video_size", &size, "-i", "pipe:0", "-frames:v", "1", "-c:v", "libx264"])
        .args(["-preset", "medium", "-profile:v", "baseline", "-tune", "psnr", "-qp", &qp])
        .args(["-f", "h264", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start ffmpeg: {error}; install it with libx264"))?;
    let mut stdin = ffmpeg.stdin.take().ok_or("ffmpeg has no standard input")?;
    let planes = [&frame.y[..], &frame.u, &frame.v].concat();
    let writer = std::thread::spawn(move || stdin.write_all(&planes));
    let output = ffmpeg.wait_with_output()?;
    writer.join().map_err(|_| "cannot write to ffmpeg")??;
    if !output.status.success() || output.stdout.is_empty() {
        return Err("ffmpeg could not encode with libx264".into());
    }
    Ok(output.stdout)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

fn fill(row: &Row) -> f64 {
    row.bytes as f64 / row.budget as f64
}

fn over(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.bytes > row.budget).count()
}

fn steady(rows: &[Row]) -> impl Iterator<Item = (u32, f64)> {
    rows.iter().flat_map(|row| row.steady.iter().copied())
}

fn behind(row: &Row) -> f64 {
    row.x264.psnr_y - row.ours.psnr_y
}

fn table_row((width, height): (u32, u32), rows: &[Row]) -> String {
    format!(
        "| {width}x{height} | {} | {} | {:.1} % ({:.1} %) | {:.1}, {:.1} | {:.0}, {:.0} | \
         {:.2}, {:.2}, {:+.2} ({:+.2}) | {:.4}, {:.4} |",
        rows.len(),
        over(rows),
        mean(rows.iter().map(fill)) * 1e2,
        rows.iter().map(fill).fold(f64::INFINITY, f64::min) * 1e2,
        mean(rows.iter().map(|row| f64::from(row.cold_passes))),
        mean(steady(rows).map(|(passes, _)| f64::from(passes))),
        median(rows.iter().map(|row| row.cold_ms)),
        median(steady(rows).map(|(_, ms)| ms)),
        mean(rows.iter().map(|row| row.ours.psnr_y)),
        mean(rows.iter().map(|row| row.x264.psnr_y)),
        -mean(rows.iter().map(behind)),
        -rows.iter().map(behind).fold(f64::NEG_INFINITY, f64::max),
        mean(rows.iter().map(|row| row.ours.ssim_y)),
        mean(rows.iter().map(|row| row.x264.ssim_y)),
    )
}

fn misses((width, height): (u32, u32), rows: &[Row]) -> Vec<String> {
    let mean_fill = mean(rows.iter().map(fill));
    let passes = median(steady(rows).map(|(passes, _)| f64::from(passes)));
    let gap = mean(rows.iter().map(behind));
    let mut missed = Vec::new();
    let mut miss = |what: String| missed.push(format!("{width}x{height}: {what}"));
    if over(rows) > 0 {
        miss(format!("{} keyframes are over the budget", over(rows)));
    }
    if mean_fill < MIN_FILL {
        miss(format!("mean fill {mean_fill:.3} is below {MIN_FILL}"));
    }
    if passes > MAX_STEADY_PASSES {
        miss(format!("median of {passes} passes in a steady scene, maximum {MAX_STEADY_PASSES}"));
    }
    // Also true for NaN.
    if gap.is_nan() || gap > MAX_BEHIND {
        miss(format!("{gap:.2} dB behind x264, maximum {MAX_BEHIND}"));
    }
    missed
}
