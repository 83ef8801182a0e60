//! `orion-peer recv`: be the Mac.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use serde_json::json;

use super::{
    connect::ConnectArgs,
    failure::Failure,
    link,
    network::{self, LinkArgs},
    observe::{self, ObserveArgs, Observer, millis, stages_json},
    observing::{Observing, REPORT_WEIGHT, Weigh},
    output::Output,
    stop,
    view::{self, ViewArgs},
};
use crate::{
    media::sink::{self, FrameRecord, PictureFormat},
    peer::PeerRole,
    report::{delivery::KeyframeDelivery, human, summary::Role},
    session::receiver::{self, ReceiverConfig, ReceiverEvent, StoredKeyframe},
    signaling::client::redacted,
    units,
};

/// Flags of `recv`.
#[derive(Debug, Clone, clap::Args)]
pub struct RecvArgs {
    /// Directory for the keyframes; made when it is not there
    #[arg(long, value_name = "DIR", default_value = "frames")]
    pub out: PathBuf,
    /// What to write of each keyframe: h264,jpg,png,y4m
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "h264,jpg")]
    pub format: Vec<PictureFormat>,
    /// Keyframes to receive; default: no end
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End when the sender says goodbye (exit code 0; before --count is reached 1) or the connection is
    /// lost for good (1), instead of waiting for it to come back
    #[arg(long)]
    pub once: bool,
    /// Do not repair lost packets: for comparison
    #[arg(long)]
    pub no_repair: bool,
    /// What the phone's bandwidth estimate starts with: auto (what lets a keyframe come at once), off
    /// (nothing), or a rate such as 5Mbit
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
    pub network: LinkArgs,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub observe: ObserveArgs,
}

/// Receives until the count or Ctrl-C ends it.
///
/// # Errors
/// Exit code 2 for flags that do not go together, 1 for what could not be done.
pub async fn run(args: RecvArgs, output: Output) -> Result<(), Failure> {
    if args.count == Some(0) {
        return Err(Failure::usage(
            "--count 0 receives nothing",
            "give at least 1, or leave it out",
        ));
    }
    let connect = args.connect.resolve("mac", SystemTime::now())?.with_twilio().await?;
    let networks = args.network.one()?;
    let mut link = link::config(&connect, PeerRole::Receiver)?;
    link.peer.repair = !args.no_repair;
    link.peer.phone_bitrate = args.phone_bitrate;
    link.signaling.retry_busy = true;
    network::put_under(networks.as_ref(), &mut link.peer, 0, 0)?;
    let gateway = link.peer.gateway.clone();
    let mut config = ReceiverConfig {
        call: link,
        out: args.out.clone(),
        formats: args.format.clone(),
        count: args.count,
        timeout: connect.timeout,
        once: args.once,
    };
    let (lines, texts) = observe::stdin_lines();
    let mut texts = network::link_lines(texts, gateway.clone(), output);
    let hello = json!({
        "role": "recv", "version": env!("CARGO_PKG_VERSION"), "pair": connect.pair,
        "device": connect.device, "signal": redacted(&connect.signal),
        "out": args.out.to_string_lossy(),
    });
    let made_here = !args.out.exists();
    let viewer = args.view.start(&args.format, &hello, lines).await?;
    let mut observer = Observer::new(&args.observe, Role::Recv, "orion-peer recv", output)?;
    config.call.negotiation_log = observer.negotiations();
    config.call.stats_every = observer.stats_every();
    observer.line(&format!(
        "joining {} as {}, writing to {}",
        redacted(&connect.signal),
        connect.device,
        args.out.display()
    ));
    if let Some(networks) = &networks {
        observer.line(&networks.sides[0].words());
    }
    if let Some(viewer) = &viewer {
        observer.line(&format!("page at {}", viewer.url()));
        observer.event(&json!({"kind": "page", "url": viewer.url()}));
    }
    let hub = viewer.as_ref().map(|viewer| Arc::clone(&viewer.hub));
    let observing = Observing::start(observer, move |observer, event| match &hub {
        None => show(observer, "", event),
        Some(hub) => {
            let told = event.clone();
            show(observer, "", event);
            view::tell(hub, &told, observer.live_stats(), observer.delivered());
        }
    });
    let mut tell = |event| observing.tell(event);
    let result = receiver::run(config, stop::asked(), &mut tell, &mut texts).await;
    let mut observer = observing.end().await;
    network::show_traffic(&mut observer, gateway.as_deref());
    if let Some(viewer) = viewer {
        let reason = result.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        viewer.close(&reason).await;
    }
    if made_here && result.is_err() {
        sink::discard_empty(&args.out);
    }
    observer.finish(result.map(|_| ()))
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

/// Shows what a receiver tells; `who` goes before each line.
pub fn show(observer: &mut Observer, who: &str, event: ReceiverEvent) {
    match event {
        ReceiverEvent::Line(line) => observer.line(&format!("{who}{line}")),
        ReceiverEvent::Text(text) => observer.text(who, &text),
        ReceiverEvent::Keyframe(keyframe) => show_keyframe(observer, who, &keyframe),
        ReceiverEvent::Report(report) => observer.report(&report),
    }
}

/// A keyframe in a line that fits a terminal.
fn line(record: &FrameRecord) -> String {
    let verified = match record.verified {
        Some(true) => ", verified",
        Some(false) => ", HASH DIFFERS",
        None => "",
    };
    let latency =
        record.latency_ms.map_or(String::new(), |ms| format!(", latency {}", human::millis(ms)));
    format!(
        "keyframe {}: {}x{}, {} B{latency}{verified}",
        record.file, record.width, record.height, record.bytes
    )
}

/// What is known of the delivery of a keyframe.
pub(super) fn delivery(keyframe: &StoredKeyframe) -> Option<KeyframeDelivery> {
    keyframe.delivery.as_ref().map(|(seen, judged)| KeyframeDelivery::new(seen, judged))
}

/// The share of its budget that a keyframe takes.
fn fill(keyframe: &StoredKeyframe) -> f64 {
    let share = keyframe.written.record.bytes as f64 / keyframe.budget.max(1) as f64;
    (share * 1e4).round() / 1e4
}

fn show_keyframe(observer: &mut Observer, who: &str, keyframe: &StoredKeyframe) {
    let record = &keyframe.written.record;
    observer.line(&format!("{who}{}", line(record)));
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
    observer.keyframe(record.bytes as u64, &keyframe.stages, &line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_keyframe_fits_a_terminal() {
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
        assert!(long.chars().count() <= 80 && long.ends_with(", HASH DIFFERS"), "{long}");
    }
}
