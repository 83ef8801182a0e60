//! `orion-peer send`: stand in for the phone.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::{Value, json};

use super::{
    call,
    connect::ConnectArgs,
    failure::Failure,
    network::{self, NetsimArgs},
    output::Output,
    reporter_thread::{REPORT_WEIGHT, ReporterThread, Weigh},
    session_reporter::{self, RecordingArgs, SessionReporter, millis, stages_json},
    stop, units,
};
use crate::{
    media::{Quality, source::SourceSpec},
    peer::PeerRole,
    report::{human, summary::Role},
    session::{
        capture::{CaptureConfig, CapturedKeyframe},
        sender::{self, INTERVAL_RANGE, SenderConfig, SenderEvent, SentKeyframe},
    },
    signaling::client::redacted,
};

/// Flags of `send`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("timeout", |arg| arg.help("Exit with an error if not connected for this long; default: wait forever"))
)]
pub struct SendArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub picture: PictureArgs,
    /// Number of keyframes to send; default: unlimited
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// How long to send once connected; default: unlimited
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Save each sent keyframe to DIR
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// Exit when the receiver ends the call (exit code 0, or 1 before --count is reached) or the connection is lost
    /// permanently (1), instead of waiting for the receiver to reconnect
    #[arg(long)]
    pub once: bool,
    /// Do not retransmit lost packets (for comparison)
    #[arg(long)]
    pub no_repair: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: NetsimArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub recording: RecordingArgs,
}

/// Flags for pictures, shared with `demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pictures")]
pub struct PictureArgs {
    /// Pictures to send: `camera[:N[:FORMAT]]`, `pattern[:WxH]`, a FILE (JPEG, PNG, WebP, MJPEG, y4m, H.264), a DIR of
    /// pictures, or - for stdin
    #[arg(long, value_name = "SOURCE", default_value = "camera", value_parser = source_parser())]
    pub source: SourceSpec,
    /// Interval between keyframes, 100ms to 24h
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "3.5s")]
    pub interval: Duration,
    /// Maximum picture size; the aspect ratio is kept; default: original size
    #[arg(long, value_name = "WxH", value_parser = units::picture_size)]
    pub size: Option<units::PictureSize>,
    /// Maximum size of a keyframe
    #[arg(long, value_name = "BYTES", value_parser = budget, default_value = "100KB")]
    pub max_bytes: u64,
    /// Pacing of packets: auto (as fast as the path allows), off, or a rate such as 2Mbit
    #[arg(long, value_name = "PACE", value_parser = units::pace, default_value = "auto")]
    pub pace: units::RateSetting,
}

impl PictureArgs {
    /// The capture settings.
    #[must_use]
    pub fn capture(&self) -> CaptureConfig {
        capture(&self.source, self.size, self.max_bytes)
    }
}

/// The capture settings for these pictures.
#[must_use]
pub fn capture(
    source: &SourceSpec,
    size: Option<units::PictureSize>,
    max_bytes: u64,
) -> CaptureConfig {
    CaptureConfig {
        source: source.clone(),
        size: size.map(|size| (size.width, size.height)),
        max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
    }
}

/// Parses `--source`; file names need not be UTF-8.
pub(super) fn source_parser() -> impl TypedValueParser<Value = SourceSpec> {
    OsStringValueParser::new().try_map(|text| SourceSpec::from_os_str(&text))
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = units::duration(text).map_err(|error| error.to_string())?;
    if (INTERVAL_RANGE.0..=INTERVAL_RANGE.1).contains(&interval) {
        Ok(interval)
    } else {
        Err("the interval must be from 100ms to 24h".to_owned())
    }
}

pub(super) fn budget(text: &str) -> Result<u64, String> {
    let bytes = units::size(text).map_err(|error| error.to_string())?;
    if (1_000..=10_000_000).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("the keyframe size must be from 1KB to 10MB".to_owned())
    }
}

/// Sends keyframes until the count or duration is reached, the source ends, or Ctrl-C.
///
/// # Errors
/// Exit code 2 for conflicting flags, 1 if the call failed.
pub async fn run(args: SendArgs, output: Output) -> Result<(), Failure> {
    if args.count == Some(0) {
        return Err(Failure::usage("--count 0 sends nothing", "use at least 1, or omit --count"));
    }
    let connect = args.connect.resolve("phone", SystemTime::now())?.with_twilio().await?;
    let networks = args.network.for_single_peer()?;
    let mut call = call::call_config(&connect, PeerRole::Sender)?;
    call.peer.repair = !args.no_repair;
    call.signaling.retry_busy = true;
    network::attach(networks.as_ref(), &mut call.peer, 0, 0)?;
    call.peer.pace = args.picture.pace;
    let gateway = call.peer.gateway.clone();
    let mut config = SenderConfig {
        call,
        capture: args.picture.capture(),
        live: args.picture.source.is_live(),
        interval: args.picture.interval,
        count: args.count,
        duration: args.duration,
        save: args.save.clone(),
        timeout: connect.timeout,
        once: args.once,
    };
    let texts = match args.picture.source {
        SourceSpec::Stdin => session_reporter::empty_input(),
        _ => session_reporter::stdin_lines().1,
    };
    let mut texts = network::link_lines(texts, gateway.clone(), output);
    let mut reporter =
        SessionReporter::new(&args.recording, Role::Send, "orion-peer send", output)?;
    config.call.negotiation_log = reporter.negotiations();
    config.call.stats_every = reporter.stats_every();
    reporter.line(&format!("joining {} as {}", redacted(&connect.signal), connect.device));
    if let Some(networks) = &networks {
        reporter.line(&networks.sides[0].describe());
    }
    let reporter_thread =
        ReporterThread::start(reporter, |reporter, event| show(reporter, "", event));
    let mut notify = |event| reporter_thread.send(event);
    let result = sender::run(config, stop::shutdown_signal(), &mut notify, &mut texts).await;
    let mut reporter = reporter_thread.join().await;
    network::show_traffic(&mut reporter, gateway.as_deref());
    reporter.finish(result.map(|_| ()))
}

impl Weigh for SenderEvent {
    fn weight(&self) -> usize {
        match self {
            Self::Line(text) | Self::Text(text) => 256 + text.len(),
            // The frame is shared with the encoder, but kept alive while the event is queued.
            Self::Sent(sent) => {
                let frame = sent.captured.original.as_ref();
                let pixels = frame.map_or(0, |frame| frame.width as usize * frame.height as usize);
                1024 + sent.captured.access_unit.data.len() + pixels * 3 / 2
            }
            Self::Report(_) => REPORT_WEIGHT,
        }
    }
}

/// Shows an event of a sender, prefixing each line with `who`.
pub fn show(reporter: &mut SessionReporter, who: &str, event: SenderEvent) {
    match event {
        SenderEvent::Line(line) => reporter.line(&format!("{who}{line}")),
        SenderEvent::Text(text) => reporter.text(who, &text),
        SenderEvent::Sent(sent) => show_sent(reporter, who, &sent),
        SenderEvent::Report(report) => reporter.report(&report),
    }
}

/// The details of a sent keyframe as a JSON object, including its quality if measured.
#[must_use]
pub fn details(keyframe: &SentKeyframe, quality: Option<Quality>) -> Value {
    let SentKeyframe { info, captured, sent, stages, connection_type, saved } = keyframe;
    let mut details = json!({
        "kind": "keyframe",
        "role": "send",
        "seq": info.seq,
        "rtpTimestamp": info.rtp_timestamp,
        "captureTime": info.capture_time,
        "bytes": info.bytes,
        "width": info.width,
        "height": info.height,
        "sha256": info.sha256,
        "packets": sent.packets,
        "qp": captured.qp.map(|qp| rounded(qp, 2)),
        "passes": captured.passes,
        "captureMs": millis(captured.capture_time),
        "scaledFrom": captured.scaled_from.map(|(width, height)| json!([width, height])),
        "connectionType": connection_type,
        "saved": saved.as_ref().map(|path| path.to_string_lossy()),
        "stagesMs": stages_json(stages),
    });
    if let Some(quality) = quality {
        details["maxBytes"] = captured.max_bytes.into();
        details["fill"] = rounded(info.bytes as f64 / captured.max_bytes as f64, 4).into();
        details["psnrDb"] = rounded(quality.psnr_y, 2).into();
        details["ssim"] = rounded(quality.ssim_y, 5).into();
    }
    details
}

fn rounded(value: f64, places: i32) -> f64 {
    let unit = 10f64.powi(places);
    (value * unit).round() / unit
}

/// Similarity of the keyframe to its source frame. Needs decoding, so it runs on the reporter thread.
fn quality(captured: &CapturedKeyframe) -> Option<Quality> {
    let original = captured.original.as_ref()?;
    Quality::of_keyframe(original, &captured.access_unit.data)
        .inspect_err(|error| tracing::warn!("cannot determine the quality of a keyframe: {error}"))
        .ok()?
}

fn show_sent(reporter: &mut SessionReporter, who: &str, keyframe: &SentKeyframe) {
    let SentKeyframe { info, captured, stages, .. } = keyframe;
    let encoded = match captured.qp {
        Some(qp) => {
            let passes = if captured.passes == 1 { "pass" } else { "passes" };
            format!(
                ", QP {qp:.1} in {} {passes}, {}",
                captured.passes,
                human::millis(millis(captured.encode_time))
            )
        }
        None => String::new(),
    };
    reporter.line(&format!(
        "{who}sent keyframe {}: {}x{}, {} B{encoded}",
        info.seq, info.width, info.height, info.bytes
    ));
    let quality = if reporter.has_stats() { quality(captured) } else { None };
    reporter.keyframe(info.bytes, stages, &details(keyframe, quality));
}
