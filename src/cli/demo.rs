//! `orion-peer demo`: server, sender and receiver in one process, over real sockets.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    failure::Failure,
    output::Output,
    recv, send, serve,
    session_reporter::{self, RecordingArgs, SessionReporter},
    stop, units,
};
use crate::{
    media::{
        sink::PictureFormat,
        source::{CameraSpec, SourceSpec, list_devices},
    },
    peer::{PeerConfig, PeerRole, local_network::local_addresses},
    report::summary::Role,
    server::RunningServer,
    session::{
        CallConfig, SessionError,
        receiver::{self, ReceiverConfig, ReceiverEnd, ReceiverEvent},
        sender::{self, SenderConfig, SenderEnd, SenderEvent, SentKeyframe},
    },
    signaling::{client::ClientConfig, client::token_client::TokenClient},
    types::Stage,
};

/// Flags of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub picture: send::PictureArgs,
    /// Maximum number of keyframes to send and receive; a source may have fewer
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub count: u64,
    /// Output directory for the keyframes; created if missing
    #[arg(long, value_name = "DIR", default_value = "frames")]
    pub out: PathBuf,
    /// File formats to write for each keyframe: h264,jpg,png,y4m
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "h264,jpg")]
    pub format: Vec<PictureFormat>,
    /// Exit with an error if no keyframe arrives for this long
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    pub timeout: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub recording: RecordingArgs,
}

/// Runs server, sender and receiver until `--count` keyframes, or all that the source has, are on disk.
///
/// # Errors
/// Exit code 1 if a part could not be started or keyframes are missing.
pub async fn run(mut args: DemoArgs, output: Output) -> Result<(), Failure> {
    if args.count == 0 {
        return Err(Failure::usage("--count 0 sends nothing", "use at least 1"));
    }
    if args.picture.source == SourceSpec::Camera(CameraSpec::default())
        && list_devices().is_ok_and(|devices| devices.is_empty())
    {
        output
            .line("no camera found: sending the test pattern; choose another source with --source");
        args.picture.source = SourceSpec::Pattern { width: 1280, height: 720 };
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| {
        Failure::new(Stage::Server, format!("cannot listen on 127.0.0.1: {error}"), "")
    })?;
    let dev = serve::dev(listener, &[]).await?;
    let mut reporter =
        SessionReporter::new(&args.recording, Role::Recv, "orion-peer demo", output)?;
    reporter
        .line(&format!("server: {} (pair demo, on this machine only)", dev.server.signal_url()));
    let result = run_pair(&args, &dev.server, &mut reporter).await;
    let finished = reporter.finish(result);
    dev.shutdown().await;
    finished
}

async fn run_pair(
    args: &DemoArgs,
    server: &RunningServer,
    reporter: &mut SessionReporter,
) -> Result<(), SessionError> {
    let (stop, stopped) = watch::channel(false);
    let sender_config = sender_config(args, server)?;
    let mut receiver_config = receiver_config(args, server)?;
    receiver_config.call.negotiation_log = reporter.negotiations();
    receiver_config.call.stats_every = reporter.stats_every();
    // Sender and receiver report from their own tasks; one task shows all events.
    let (events, mut received_events) = mpsc::unbounded_channel();
    let (sent_count, arrived) = (Arc::<AtomicU64>::default(), watch::Sender::new(0));
    let sending = tokio::spawn({
        let (events, stopped, sent_count) =
            (events.clone(), wait(stopped.clone()), Arc::clone(&sent_count));
        async move {
            let mut notify = move |event| {
                let sent = u64::from(matches!(event, SenderEvent::Sent(_)));
                sent_count.fetch_add(sent, Ordering::Relaxed);
                let _ = events.send(DemoEvent::Sender(event));
            };
            sender::run(sender_config, stopped, &mut notify, &mut session_reporter::empty_input())
                .await
        }
    });
    let receiving = tokio::spawn({
        let (stopped, arrived) = (wait(stopped), arrived.clone());
        async move {
            let mut notify = move |event| {
                let keyframe = u64::from(matches!(event, ReceiverEvent::Keyframe(_)));
                arrived.send_modify(|arrived| *arrived += keyframe);
                let _ = events.send(DemoEvent::Receiver(event));
            };
            receiver::run(
                receiver_config,
                stopped,
                &mut notify,
                &mut session_reporter::empty_input(),
            )
            .await
        }
    });
    let show = async {
        while let Some(event) = received_events.recv().await {
            match event {
                // The live line and the summary show only the receiver.
                DemoEvent::Sender(SenderEvent::Report(_)) => {}
                DemoEvent::Sender(SenderEvent::Sent(sent)) => show_sent(reporter, &sent),
                DemoEvent::Sender(event) => send::show(reporter, "send: ", event),
                DemoEvent::Receiver(event) => recv::show(reporter, "recv: ", event),
            }
        }
    };
    let both = follow(sending, receiving, &stop, &sent_count, &arrived);
    let (ended, ()) = tokio::join!(both, show);
    let ended = ended?;
    let (sent, arrived) = (sent_count.load(Ordering::Relaxed), *arrived.borrow());
    if ended.source_ended && arrived >= sent && arrived < args.count {
        let pictures = if sent == 1 { "picture" } else { "pictures" };
        reporter.line(&format!("the source has {sent} {pictures}, and all of them arrived"));
        return Ok(());
    }
    conclude(&ended, arrived, args.count)
}

/// How the sender and the receiver ended, if neither failed.
struct Ended {
    source_ended: bool,
    interrupted: bool,
}

/// Waits until sender and receiver have ended; stops one if the end of the other leaves it nothing to do.
async fn follow(
    mut sending: JoinHandle<Result<SenderEnd, SessionError>>,
    mut receiving: JoinHandle<Result<ReceiverEnd, SessionError>>,
    stop: &watch::Sender<bool>,
    sent_count: &AtomicU64,
    arrived: &watch::Sender<u64>,
) -> Result<Ended, SessionError> {
    let (mut sent, mut received, mut interrupted) = (None, None, false);
    let mut shutdown = Box::pin(stop::shutdown_signal());
    let mut arrivals = arrived.subscribe();
    while sent.is_none() || received.is_none() {
        let source_ended = matches!(sent, Some(Ok(SenderEnd::SourceEnded)));
        let going = !*stop.borrow();
        tokio::select! {
            result = &mut sending, if sent.is_none() => {
                let result = joined(result);
                if result.is_err() {
                    stop.send_replace(true);
                }
                sent = Some(result);
            }
            result = &mut receiving, if received.is_none() => {
                stop.send_replace(true);
                received = Some(joined(result));
            }
            // No further keyframe will arrive.
            _ = arrivals.wait_for(|arrived| *arrived >= sent_count.load(Ordering::Relaxed)),
                if source_ended && going => { stop.send_replace(true); }
            () = &mut shutdown, if going => {
                interrupted = true;
                stop.send_replace(true);
            }
        }
    }
    let sent = sent.transpose()?;
    received.transpose()?;
    Ok(Ended { source_ended: sent == Some(SenderEnd::SourceEnded), interrupted })
}

fn conclude(ended: &Ended, arrived: u64, count: u64) -> Result<(), SessionError> {
    let error = |stage, code: &str, message: String, remedy: &str| {
        Err(SessionError { stage, code: code.into(), message, remedy: remedy.into() })
    };
    if arrived >= count {
        return Ok(());
    }
    if ended.interrupted {
        let message = format!("stopped after {arrived} of {count} keyframes");
        let remedy =
            "let it run to completion; the keyframes received so far are in the output directory";
        return error(Stage::Interrupted, "interrupted", message, remedy);
    }
    let message = format!("{arrived} of {count} keyframes arrived");
    let remedy =
        "run with -v for details; the keyframes received so far are in the output directory";
    error(Stage::Video, "keyframes-missing", message, remedy)
}

fn sender_config(args: &DemoArgs, server: &RunningServer) -> Result<SenderConfig, SessionError> {
    let mut call = call_config(server, "phone", PeerRole::Sender)?;
    call.peer.pace = args.picture.pace;
    Ok(SenderConfig {
        call,
        capture: args.picture.capture(),
        live: args.picture.source.is_live(),
        interval: args.picture.interval,
        count: Some(args.count),
        duration: None,
        save: None,
        timeout: Some(args.timeout),
        once: false,
    })
}

fn receiver_config(
    args: &DemoArgs,
    server: &RunningServer,
) -> Result<ReceiverConfig, SessionError> {
    Ok(ReceiverConfig {
        call: call_config(server, "mac", PeerRole::Receiver)?,
        out: args.out.clone(),
        formats: args.format.clone(),
        count: Some(args.count),
        timeout: Some(args.timeout + args.picture.interval),
        once: false,
    })
}

fn show_sent(reporter: &mut SessionReporter, sent: &SentKeyframe) {
    reporter.line(&format!(
        "send: keyframe {}, {} B, QP {}",
        sent.info.seq,
        sent.info.bytes,
        sent.captured.qp.map_or("unchanged".to_owned(), |qp| format!("{qp:.1}"))
    ));
    reporter.stages(&sent.stages, &send::details(sent, None));
}

enum DemoEvent {
    Sender(SenderEvent),
    Receiver(ReceiverEvent),
}

fn joined<T>(
    result: Result<Result<T, SessionError>, tokio::task::JoinError>,
) -> Result<T, SessionError> {
    result.unwrap_or_else(|error| {
        Err(SessionError {
            stage: Stage::Video,
            code: "thread-failed".into(),
            message: format!("a task failed: {error}"),
            remedy: "run with -v for details".into(),
        })
    })
}

fn call_config(
    server: &RunningServer,
    device: &str,
    role: PeerRole,
) -> Result<CallConfig, SessionError> {
    let tokens =
        TokenClient::new(&server.token_url(), "dev", device.into(), None).map_err(|error| {
            SessionError {
                stage: Stage::Token,
                code: error.code(),
                message: error.to_string(),
                remedy: error.remedy(),
            }
        })?;
    let mut peer = PeerConfig::new(role);
    peer.addresses = local_addresses(None, true, true, true);
    peer.addresses.retain(std::net::IpAddr::is_loopback);
    Ok(CallConfig::new(ClientConfig::new(server.signal_url(), Arc::new(tokens)), peer))
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // The watch sender outlives the demo.
    let _ = stopped.wait_for(|stop| *stop).await;
}
