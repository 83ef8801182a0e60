//! `orion-peer send`: be the phone.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::{Value, json};

use super::{
    connect::ConnectArgs,
    failure::Failure,
    link,
    network::{self, LinkArgs},
    observe::{self, ObserveArgs, Observer, millis, stages_json},
    observing::{Observing, REPORT_WEIGHT, Weigh},
    output::Output,
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
pub struct SendArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub picture: PictureArgs,
    /// Keyframes to send; default: no end
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// How long to send once connected; default: no end
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Save each sent keyframe in DIR
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// End when the receiver says goodbye (exit code 0; before --count is reached 1) or the connection is
    /// lost for good (1), instead of waiting for it to come back
    #[arg(long)]
    pub once: bool,
    /// Do not repair lost packets: for comparison
    #[arg(long)]
    pub no_repair: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub network: LinkArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub observe: ObserveArgs,
}

/// Flags about pictures, shared with `demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pictures")]
pub struct PictureArgs {
    /// `camera[:N[:FORMAT]]`, `pattern[:WxH]`, a FILE (JPEG, PNG, WebP, MJPEG, y4m, H.264), a DIR of pictures,
    /// or - for stdin
    #[arg(long, value_name = "SOURCE", default_value = "camera", value_parser = source_parser())]
    pub source: SourceSpec,
    /// Time between keyframes, 100ms to 24h
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "3.5s")]
    pub interval: Duration,
    /// Box that pictures are fitted into, aspect kept; default: their own size
    #[arg(long, value_name = "WxH", value_parser = units::picture_size)]
    pub size: Option<units::PictureSize>,
    /// Largest keyframe
    #[arg(long, value_name = "BYTES", value_parser = budget, default_value = "100KB")]
    pub max_bytes: u64,
    /// How fast packets leave: auto (as fast as the way carries them), off, or a rate such as 2Mbit
    #[arg(long, value_name = "PACE", value_parser = units::pace, default_value = "auto")]
    pub pace: units::RateSetting,
}

impl PictureArgs {
    /// How to capture.
    #[must_use]
    pub fn capture(&self) -> CaptureConfig {
        capture(&self.source, self.size, self.max_bytes)
    }
}

/// How to capture from these pictures.
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

/// Reads `--source`; names of files need not be UTF-8.
pub(super) fn source_parser() -> impl TypedValueParser<Value = SourceSpec> {
    OsStringValueParser::new().try_map(|text| SourceSpec::from_os_str(&text))
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = units::duration(text).map_err(|error| error.to_string())?;
    if (INTERVAL_RANGE.0..=INTERVAL_RANGE.1).contains(&interval) {
        Ok(interval)
    } else {
        Err("an interval is from 100ms to 24h".to_owned())
    }
}

pub(super) fn budget(text: &str) -> Result<u64, String> {
    let bytes = units::size(text).map_err(|error| error.to_string())?;
    if (1_000..=10_000_000).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("a keyframe is from 1KB to 10MB".to_owned())
    }
}

/// Sends until the count, the duration, the source or Ctrl-C ends it.
///
/// # Errors
/// Exit code 2 for flags that do not go together, 1 for what could not be done.
pub async fn run(args: SendArgs, output: Output) -> Result<(), Failure> {
    if args.count == Some(0) {
        return Err(Failure::usage("--count 0 sends nothing", "give at least 1, or leave it out"));
    }
    let connect = args.connect.resolve("phone", SystemTime::now())?.with_twilio().await?;
    let networks = args.network.one()?;
    let mut link = link::config(&connect, PeerRole::Sender)?;
    link.peer.repair = !args.no_repair;
    link.signaling.retry_busy = true;
    network::put_under(networks.as_ref(), &mut link.peer, 0, 0)?;
    link.peer.pace = args.picture.pace;
    let gateway = link.peer.gateway.clone();
    let mut config = SenderConfig {
        call: link,
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
        SourceSpec::Stdin => observe::no_lines(),
        _ => observe::stdin_lines().1,
    };
    let mut texts = network::link_lines(texts, gateway.clone(), output);
    let mut observer = Observer::new(&args.observe, Role::Send, "orion-peer send", output)?;
    config.call.negotiation_log = observer.negotiations();
    config.call.stats_every = observer.stats_every();
    observer.line(&format!("joining {} as {}", redacted(&connect.signal), connect.device));
    if let Some(networks) = &networks {
        observer.line(&networks.sides[0].words());
    }
    let observing = Observing::start(observer, |observer, event| show(observer, "", event));
    let mut tell = |event| observing.tell(event);
    let result = sender::run(config, stop::asked(), &mut tell, &mut texts).await;
    let mut observer = observing.end().await;
    network::show_traffic(&mut observer, gateway.as_deref());
    observer.finish(result.map(|_| ()))
}

impl Weigh for SenderEvent {
    fn weight(&self) -> usize {
        match self {
            Self::Line(text) | Self::Text(text) => 256 + text.len(),
            // The frame is shared with the encoder, but kept for as long as this waits.
            Self::Sent(sent) => {
                let frame = sent.captured.original.as_ref();
                let pixels = frame.map_or(0, |frame| frame.width as usize * frame.height as usize);
                1024 + sent.captured.access_unit.data.len() + pixels * 3 / 2
            }
            Self::Report(_) => REPORT_WEIGHT,
        }
    }
}

/// Shows what a sender tells; `who` goes before each line.
pub fn show(observer: &mut Observer, who: &str, event: SenderEvent) {
    match event {
        SenderEvent::Line(line) => observer.line(&format!("{who}{line}")),
        SenderEvent::Text(text) => observer.text(who, &text),
        SenderEvent::Sent(sent) => show_sent(observer, who, &sent),
        SenderEvent::Report(report) => observer.report(&report),
    }
}

/// What is known of a keyframe that was sent; its quality where that was measured.
#[must_use]
pub fn known(keyframe: &SentKeyframe, quality: Option<Quality>) -> Value {
    let SentKeyframe { info, captured, sent, stages, connection_type, saved } = keyframe;
    let mut known = json!({
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
        known["maxBytes"] = captured.max_bytes.into();
        known["fill"] = rounded(info.bytes as f64 / captured.max_bytes as f64, 4).into();
        known["psnrDb"] = rounded(quality.psnr_y, 2).into();
        known["ssim"] = rounded(quality.ssim_y, 5).into();
    }
    known
}

fn rounded(value: f64, places: i32) -> f64 {
    let unit = 10f64.powi(places);
    (value * unit).round() / unit
}

/// How near the keyframe comes to its frame: a decoder's work, for the observer's thread.
fn quality(captured: &CapturedKeyframe) -> Option<Quality> {
    let original = captured.original.as_ref()?;
    Quality::of_keyframe(original, &captured.access_unit.data)
        .inspect_err(|error| tracing::warn!("the quality of a keyframe is not known: {error}"))
        .ok()?
}

fn show_sent(observer: &mut Observer, who: &str, keyframe: &SentKeyframe) {
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
    observer.line(&format!(
        "{who}sent keyframe {}: {}x{}, {} B{encoded}",
        info.seq, info.width, info.height, info.bytes
    ));
    let quality = if observer.has_stats() { quality(captured) } else { None };
    observer.keyframe(info.bytes, stages, &known(keyframe, quality));
}
