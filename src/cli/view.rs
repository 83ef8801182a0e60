//! `recv --view`: what is told on stderr, in a browser page, too.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use super::{failure::Failure, observe::millis, recv::delivery};
use crate::{
    media::sink::PictureFormat,
    report::{delivery::DeliveryReport, live::LiveStats},
    session::receiver::{ReceiverEvent, StoredKeyframe},
    types::{Stage, os_error::listen_remedy},
    units,
    view::{Viewer, hub::Hub},
};

/// Where the page is when `--view` has no address.
const ADDRESS: &str = "127.0.0.1:8788";

/// Flags of the page.
#[derive(Debug, Clone, clap::Args)]
pub struct ViewArgs {
    /// Show the keyframes in a browser page, at this address; default 127.0.0.1:8788. On an address that is
    /// not loopback the page needs the token in the URL that is printed
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = ADDRESS, value_parser = units::address)]
    pub view: Option<SocketAddr>,
}

impl ViewArgs {
    /// Serves the page, if it is wanted. `hello` is what it is told first; lines typed there go to
    /// `lines`.
    ///
    /// # Errors
    /// Exit code 2 when no picture is written that a browser can show, 1 when the address is taken.
    pub async fn start(
        &self,
        formats: &[PictureFormat],
        hello: &Value,
        lines: mpsc::Sender<String>,
    ) -> Result<Option<Viewer>, Failure> {
        let Some(address) = self.view else { return Ok(None) };
        if !formats.iter().any(|format| shown(*format)) {
            return Err(Failure::usage(
                "--view has no picture to show: --format has neither jpg nor png",
                "add jpg to --format",
            ));
        }
        let taken = |error: std::io::Error| {
            let another =
                "give another address, as in --view 127.0.0.1:8799; port 0 is any free one";
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

/// Whether browsers show it.
fn shown(format: PictureFormat) -> bool {
    matches!(format, PictureFormat::Jpg | PictureFormat::Png)
}

/// Passes on to the page what a receiver tells; `stats` is the live line, `delivered` is how keyframes were delivered.
pub fn tell(
    hub: &Hub,
    event: &ReceiverEvent,
    stats: &LiveStats,
    delivered: Option<&DeliveryReport>,
) {
    match event {
        ReceiverEvent::Line(line) => hub.line(line),
        ReceiverEvent::Text(text) => hub.text(text),
        ReceiverEvent::Keyframe(keyframe) => tell_keyframe(hub, keyframe),
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

fn tell_keyframe(hub: &Hub, keyframe: &StoredKeyframe) {
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
