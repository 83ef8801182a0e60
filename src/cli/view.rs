//! `recv --view`: shows the session in a browser page.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use super::{
    failure::Failure,
    session_reporter::{delivery, millis},
};
use crate::{
    media::sink::PictureFormat,
    report::{delivery::DeliveryReport, live::LiveStats},
    session::receiver::{ReceiverEvent, StoredKeyframe},
    types::{Stage, os_error::listen_remedy},
    units,
    view::{Viewer, hub::Hub},
};

/// Default address of the page.
const ADDRESS: &str = "127.0.0.1:8788";

/// Flags for the page.
#[derive(Debug, Clone, clap::Args)]
pub struct ViewArgs {
    /// Show the keyframes in a web page at this address; default: 127.0.0.1:8788. On addresses other than
    /// loopback, the page requires the token in the printed URL
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = ADDRESS, value_parser = units::address)]
    pub view: Option<SocketAddr>,
}

impl ViewArgs {
    /// Serves the page, if requested. `hello` is the first message to it; lines typed in the page go to `lines`.
    ///
    /// # Errors
    /// Exit code 2 if no picture format for browsers is written, 1 if the address is in use.
    pub async fn start(
        &self,
        formats: &[PictureFormat],
        hello: &Value,
        lines: mpsc::Sender<String>,
    ) -> Result<Option<Viewer>, Failure> {
        let Some(address) = self.view else { return Ok(None) };
        if !formats.iter().any(|format| shown(*format)) {
            return Err(Failure::usage(
                "--view requires pictures: --format includes neither jpg nor png",
                "add jpg to --format",
            ));
        }
        let taken = |error: std::io::Error| {
            let another =
                "use another address, such as --view 127.0.0.1:8799; port 0 picks a free port";
            Failure::new(
                Stage::Output,
                format!("cannot serve the page on {address}: {error}"),
                listen_remedy(&error, another),
            )
        };
        let listener = TcpListener::bind(address).await.map_err(taken)?;
        Viewer::start(listener, Arc::new(Hub::new(hello)), lines).map(Some).map_err(taken)
    }
}

/// Whether browsers can show a format.
fn shown(format: PictureFormat) -> bool {
    matches!(format, PictureFormat::Jpg | PictureFormat::Png)
}

/// Publishes an event of a receiver to the page; `stats` are the values of the live line, `delivered` describes the
/// delivery of keyframes.
pub fn publish(
    hub: &Hub,
    event: &ReceiverEvent,
    stats: &LiveStats,
    delivered: Option<&DeliveryReport>,
) {
    match event {
        ReceiverEvent::Line(line) => hub.line(line),
        ReceiverEvent::Text(text) => hub.text(text),
        ReceiverEvent::Keyframe(keyframe) => publish_keyframe(hub, keyframe),
        ReceiverEvent::Report(report) => hub.report(
            stats.connection.is_some() && report.state == "connected",
            json!({
                "state": report.state,
                "connectionType": stats.connection,
                "rttMs": stats.rtt_ms,
                "video": {"sent": stats.video_sent, "received": stats.video_received},
                "data": {"sent": stats.data_sent, "received": stats.data_received},
                "frameRate": stats.frame_rate,
                "keyframes": report.keyframes,
                "verified": report.verified,
                "broken": report.broken,
                "unwritten": report.unwritten,
                "findings": delivered.map(|delivered| &delivered.findings),
            }),
        ),
    }
}

fn publish_keyframe(hub: &Hub, keyframe: &StoredKeyframe) {
    let record = &keyframe.written.record;
    let picture = |end: &str| {
        let mut files = keyframe.written.files.iter();
        files.find(|file: &&PathBuf| file.extension().is_some_and(|found| found == end)).cloned()
    };
    let mut known = serde_json::to_value(record).unwrap_or_default();
    known["undecoded"] = json!(keyframe.undecoded);
    known["receiveMs"] = json!(millis(keyframe.receive_time));
    known["delivery"] = json!(delivery(keyframe));
    known["maxBytes"] = json!(keyframe.budget);
    hub.keyframe(record.seq, known, picture("jpg").or_else(|| picture("png")));
}
