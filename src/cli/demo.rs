//! `orion-peer demo`: server, sender and receiver on this machine, over real sockets.

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
    observe::{self, ObserveArgs, Observer},
    output::Output,
    recv, send, serve, stop, units,
};
use crate::{
    media::{
        sink::PictureFormat,
        source::{CameraSpec, SourceSpec, list_devices},
    },
    peer::{PeerConfig, PeerRole, config::local_addresses},
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
    /// Keyframes to send and receive, at most: a source may have fewer
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub count: u64,
    /// Directory for the keyframes; made when it is not there
    #[arg(long, value_name = "DIR", default_value = "frames")]
    pub out: PathBuf,
    /// What to write of each keyframe: h264,jpg,png,y4m
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', default_value = "h264,jpg")]
    pub format: Vec<PictureFormat>,
    /// Give up when no keyframe came for this long
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    pub timeout: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub observe: ObserveArgs,
}

/// Runs the three until the keyframes are on disk: `--count`, or as many as the source has.
///
/// # Errors
/// Exit code 1 for what could not be done.
pub async fn run(mut args: DemoArgs, output: Output) -> Result<(), Failure> {
    if args.count == 0 {
        return Err(Failure::usage("--count 0 sends nothing", "give at least 1"));
    }
    if args.picture.source == SourceSpec::Camera(CameraSpec::default())
        && list_devices().is_ok_and(|devices| devices.is_empty())
    {
        output.line("no camera here: showing the test pattern; --source names something else");
        args.picture.source = SourceSpec::Pattern { width: 1280, height: 720 };
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| {
        Failure::new(Stage::Server, format!("cannot listen on 127.0.0.1: {error}"), "")
    })?;
    let dev = serve::dev(listener, &[]).await?;
    let mut observer = Observer::new(&args.observe, Role::Recv, "orion-peer demo", output)?;
    observer
        .line(&format!("server: {} (pair demo, on this machine only)", dev.server.signal_url()));
    let result = run_pair(&args, &dev.server, &mut observer).await;
    let finished = observer.finish(result);
    dev.shutdown().await;
    finished
}

async fn run_pair(
    args: &DemoArgs,
    server: &RunningServer,
    observer: &mut Observer,
) -> Result<(), SessionError> {
    let (stop, stopped) = watch::channel(false);
    let sender_config = sender_config(args, server)?;
    let mut receiver_config = receiver_config(args, server)?;
    receiver_config.call.negotiation_log = observer.negotiations();
    receiver_config.call.stats_every = observer.stats_every();
    // Both tell from their own tasks; one place shows it.
    let (told, mut tellings) = mpsc::unbounded_channel();
    let (sent_count, arrived) = (Arc::<AtomicU64>::default(), watch::Sender::new(0));
    let sending = tokio::spawn({
        let (told, stopped, sent_count) =
            (told.clone(), wait(stopped.clone()), Arc::clone(&sent_count));
        async move {
            let mut tell = move |event| {
                let sent = u64::from(matches!(event, SenderEvent::Sent(_)));
                sent_count.fetch_add(sent, Ordering::Relaxed);
                let _ = told.send(Told::Sender(event));
            };
            sender::run(sender_config, stopped, &mut tell, &mut observe::no_lines()).await
        }
    });
    let receiving = tokio::spawn({
        let (stopped, arrived) = (wait(stopped), arrived.clone());
        async move {
            let mut tell = move |event| {
                let keyframe = u64::from(matches!(event, ReceiverEvent::Keyframe(_)));
                arrived.send_modify(|arrived| *arrived += keyframe);
                let _ = told.send(Told::Receiver(event));
            };
            receiver::run(receiver_config, stopped, &mut tell, &mut observe::no_lines()).await
        }
    });
    let show = async {
        while let Some(telling) = tellings.recv().await {
            match telling {
                // One live line and one summary: those of the receiver.
                Told::Sender(SenderEvent::Report(_)) => {}
                Told::Sender(SenderEvent::Sent(sent)) => show_sent(observer, &sent),
                Told::Sender(event) => send::show(observer, "send: ", event),
                Told::Receiver(event) => recv::show(observer, "recv: ", event),
            }
        }
    };
    let both = follow(sending, receiving, &stop, &sent_count, &arrived);
    let (ended, ()) = tokio::join!(both, show);
    let ended = ended?;
    let (sent, arrived) = (sent_count.load(Ordering::Relaxed), *arrived.borrow());
    if ended.source_ended && arrived >= sent && arrived < args.count {
        let pictures = if sent == 1 { "picture" } else { "pictures" };
        observer.line(&format!("the source has {sent} {pictures}, and all of them arrived"));
        return Ok(());
    }
    conclude(&ended, arrived, args.count)
}

/// How both ended without an error.
struct Ended {
    source_ended: bool,
    interrupted: bool,
}

/// Waits until both have ended, and sees to it that the one does not wait for the other in vain.
async fn follow(
    mut sending: JoinHandle<Result<SenderEnd, SessionError>>,
    mut receiving: JoinHandle<Result<ReceiverEnd, SessionError>>,
    stop: &watch::Sender<bool>,
    sent_count: &AtomicU64,
    arrived: &watch::Sender<u64>,
) -> Result<Ended, SessionError> {
    let (mut sent, mut received, mut interrupted) = (None, None, false);
    let mut asked = Box::pin(stop::asked());
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
            // No other keyframe will come.
            _ = arrivals.wait_for(|arrived| *arrived >= sent_count.load(Ordering::Relaxed)),
                if source_ended && going => { stop.send_replace(true); }
            () = &mut asked, if going => {
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
        let remedy = "let it run to its end; what arrived is in the directory";
        return error(Stage::Interrupted, "interrupted", message, remedy);
    }
    let message = format!("{arrived} of {count} keyframes arrived");
    let remedy = "run with -v for the details; what arrived is in the directory";
    error(Stage::Video, "keyframes-missing", message, remedy)
}

fn sender_config(args: &DemoArgs, server: &RunningServer) -> Result<SenderConfig, SessionError> {
    let mut link = link(server, "phone", PeerRole::Sender)?;
    link.peer.pace = args.picture.pace;
    Ok(SenderConfig {
        call: link,
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
        call: link(server, "mac", PeerRole::Receiver)?,
        out: args.out.clone(),
        formats: args.format.clone(),
        count: Some(args.count),
        timeout: Some(args.timeout + args.picture.interval),
        once: false,
    })
}

fn show_sent(observer: &mut Observer, sent: &SentKeyframe) {
    observer.line(&format!(
        "send: keyframe {}, {} bytes, QP {}",
        sent.info.seq,
        sent.info.bytes,
        sent.captured.qp.map_or("as it was".to_owned(), |qp| format!("{qp:.1}"))
    ));
    observer.stages(&sent.stages, &send::known(sent, None));
}

enum Told {
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
            remedy: "run with -v for the details".into(),
        })
    })
}

fn link(server: &RunningServer, device: &str, role: PeerRole) -> Result<CallConfig, SessionError> {
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
    // The sender of the watch lives as long as the demo.
    let _ = stopped.wait_for(|stop| *stop).await;
}
