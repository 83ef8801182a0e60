//! `orion-peer recv`: stand in for the Mac.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use serde_json::json;

use super::{
    call,
    connect::ConnectArgs,
    failure::Failure,
    network::{self, NetsimArgs},
    output::Output,
    reporter_thread::{REPORT_WEIGHT, ReporterThread, Weigh},
    session_reporter::{self, RecordingArgs, SessionReporter, delivery, millis, stages_json},
    stop,
    view::{self, ViewArgs},
};
use crate::{
    media::sink::{self, FrameRecord, PictureFormat},
    peer::PeerRole,
    report::{human, summary::Role},
    session::receiver::{self, ReceiverConfig, ReceiverEvent, StoredKeyframe},
    signaling::client::redacted,
    units,
};

/// Flags of `recv`.
#[derive(Debug, Clone, clap::Args)]
pub struct RecvArgs {
    /// Output directory for the keyframes; created if missing
    #[arg(long, value_name = "DIR", default_value = "frames")]
    pub out: PathBuf,
    /// File formats to write for each keyframe: h264,jpg,png,y4m
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "h264,jpg")]
    pub format: Vec<PictureFormat>,
    /// Number of keyframes to receive; default: unlimited
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Exit when the sender ends the call (exit code 0, or 1 before --count is reached) or the connection is lost
    /// permanently (1), instead of waiting for the sender to reconnect
    #[arg(long)]
    pub once: bool,
    /// Do not request retransmission of lost packets (for comparison)
    #[arg(long)]
    pub no_repair: bool,
    /// Initial bandwidth estimate suggested to the phone: auto (enough to send a keyframe immediately), off (none),
    /// or a rate such as 5Mbit
    #[arg(long, value_name = "BITRATE", value_parser = units::phone_bitrate, default_value = "auto")]
    pub phone_bitrate: units::RateSetting,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub view: ViewArgs,
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

/// Receives keyframes until the count is reached or Ctrl-C.
///
/// # Errors
/// Exit code 2 for conflicting flags, 1 if the call failed.
pub async fn run(args: RecvArgs, output: Output) -> Result<(), Failure> {
    if args.count == Some(0) {
        return Err(Failure::usage(
            "--count 0 receives nothing",
            "use at least 1, or omit --count",
        ));
    }
    let connect = args.connect.resolve("mac", SystemTime::now())?.with_twilio().await?;
    let networks = args.network.for_single_peer()?;
    let mut call = call::call_config(&connect, PeerRole::Receiver)?;
    call.peer.repair = !args.no_repair;
    call.peer.phone_bitrate = args.phone_bitrate;
    call.signaling.retry_busy = true;
    network::attach(networks.as_ref(), &mut call.peer, 0, 0)?;
    let gateway = call.peer.gateway.clone();
    let mut config = ReceiverConfig {
        call,
        out: args.out.clone(),
        formats: args.format.clone(),
        count: args.count,
        timeout: connect.timeout,
        once: args.once,
    };
    // From here on, a signal causes an orderly shutdown, even right after the first line of output.
    let shutdown = stop::shutdown_signal();
    let (lines, texts) = session_reporter::stdin_lines();
    let mut texts = network::link_lines(texts, gateway.clone(), output);
    let hello = json!({
        "role": "recv", "version": env!("CARGO_PKG_VERSION"), "pair": connect.pair,
        "device": connect.device, "signal": redacted(&connect.signal),
        "out": args.out.to_string_lossy(),
    });
    let created_here = !args.out.exists();
    let viewer = args.view.start(&args.format, &hello, lines).await?;
    let mut reporter =
        SessionReporter::new(&args.recording, Role::Recv, "orion-peer recv", output)?;
    config.call.negotiation_log = reporter.negotiations();
    config.call.stats_every = reporter.stats_every();
    reporter.line(&format!(
        "joining {} as {}, writing to {}",
        redacted(&connect.signal),
        connect.device,
        args.out.display()
    ));
    if let Some(networks) = &networks {
        reporter.line(&networks.sides[0].describe());
    }
    if let Some(viewer) = &viewer {
        reporter.line(&format!("page: {}", viewer.url()));
        reporter.event(&json!({"kind": "page", "url": viewer.url()}));
    }
    let hub = viewer.as_ref().map(|viewer| Arc::clone(&viewer.hub));
    let reporter_thread = ReporterThread::start(reporter, move |reporter, event| match &hub {
        None => show(reporter, "", event),
        Some(hub) => {
            let copy = event.clone();
            show(reporter, "", event);
            view::publish(hub, &copy, reporter.live_stats(), reporter.delivered());
        }
    });
    let mut notify = |event| reporter_thread.send(event);
    let result = receiver::run(config, shutdown, &mut notify, &mut texts).await;
    let mut reporter = reporter_thread.join().await;
    network::show_traffic(&mut reporter, gateway.as_deref());
    if let Some(viewer) = viewer {
        let reason = result.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        viewer.close(&reason).await;
    }
    if created_here && result.is_err() {
        sink::discard_empty(&args.out);
    }
    reporter.finish(result.map(|_| ()))
}

impl Weigh for ReceiverEvent {
    fn weight(&self) -> usize {
        match self {
            Self::Line(text) | Self::Text(text) => 256 + text.len(),
            Self::Keyframe(_) => 2048,
            Self::Report(_) => REPORT_WEIGHT,
        }
    }
}

/// Shows an event of a receiver, prefixing each line with `who`.
pub fn show(reporter: &mut SessionReporter, who: &str, event: ReceiverEvent) {
    match event {
        ReceiverEvent::Line(line) => reporter.line(&format!("{who}{line}")),
        ReceiverEvent::Text(text) => reporter.text(who, &text),
        ReceiverEvent::Keyframe(keyframe) => show_keyframe(reporter, who, &keyframe),
        ReceiverEvent::Report(report) => reporter.report(&report),
    }
}

/// Describes a keyframe in one line of at most 80 characters.
fn line(record: &FrameRecord) -> String {
    let verified = match record.verified {
        Some(true) => ", verified",
        Some(false) => ", HASH MISMATCH",
        None => "",
    };
    let latency =
        record.latency_ms.map_or(String::new(), |ms| format!(", latency {}", human::millis(ms)));
    format!(
        "keyframe {}: {}x{}, {} B{latency}{verified}",
        record.file, record.width, record.height, record.bytes
    )
}

/// The size of a keyframe as a fraction of its budget.
fn fill(keyframe: &StoredKeyframe) -> f64 {
    let share = keyframe.written.record.bytes as f64 / keyframe.budget.max(1) as f64;
    (share * 1e4).round() / 1e4
}

fn show_keyframe(reporter: &mut SessionReporter, who: &str, keyframe: &StoredKeyframe) {
    let record = &keyframe.written.record;
    reporter.line(&format!("{who}{}", line(record)));
    let mut line = serde_json::to_value(record).unwrap_or_default();
    if let Some(fields) = line.as_object_mut() {
        fields.insert("kind".into(), json!("keyframe"));
        fields.insert("role".into(), json!("recv"));
        fields.insert("receiveMs".into(), json!(millis(keyframe.receive_time)));
        fields.insert("delivery".into(), json!(delivery(keyframe)));
        fields.insert("maxBytes".into(), json!(keyframe.budget));
        fields.insert("fill".into(), json!(fill(keyframe)));
        fields.insert("undecoded".into(), json!(keyframe.undecoded));
        let color = keyframe.written.colour.map(|colour| {
            json!({
                "range": colour.range_name(),
                "primaries": colour.primaries_name(),
                "transfer": colour.transfer_name(),
                "matrix": colour.matrix_name(),
            })
        });
        fields.insert("color".into(), json!(color));
        fields.insert("stagesMs".into(), stages_json(&keyframe.stages));
    }
    reporter.keyframe(record.bytes as u64, &keyframe.stages, &line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframe_lines_fit_a_terminal() {
        let mut record = FrameRecord {
            file: "000001.h264".into(),
            width: 1280,
            height: 720,
            bytes: 99_680,
            latency_ms: Some(13.3),
            verified: Some(true),
            ..FrameRecord::default()
        };
        assert_eq!(
            line(&record),
            "keyframe 000001.h264: 1280x720, 99680 B, latency 13.3 ms, verified"
        );
        record = FrameRecord {
            file: "123456.h264".into(),
            width: 3840,
            height: 2160,
            bytes: 9_999_999,
            latency_ms: Some(12_345.6),
            verified: Some(false),
            ..record
        };
        let long = format!("recv: {}", line(&record));
        assert!(long.chars().count() <= 80 && long.ends_with(", HASH MISMATCH"), "{long}");
    }
}
