//! `orion-peer demo`: server, sender and receiver on this machine, over real sockets.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};

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
        LinkConfig, SessionError,
        receiver::{self, ReceiverConfig, ReceiverEnd},
        sender::{self, SenderConfig},
    },
    signaling::{client::ClientConfig, token_client::TokenClient},
    types::Stage,
};

/// Flags of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub picture: send::PictureArgs,
    /// Keyframes to send and receive
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

/// Runs the three until the keyframes are on disk.
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
    let mut sender_link = link(server, "phone", PeerRole::Sender)?;
    sender_link.peer.pace = args.picture.pace;
    let sender_config = SenderConfig {
        link: sender_link,
        capture: args.picture.capture(),
        live: args.picture.source.is_live(),
        interval: args.picture.interval,
        count: Some(args.count),
        duration: None,
        save: None,
        timeout: Some(args.timeout),
        once: false,
    };
    let mut receiver_link = link(server, "mac", PeerRole::Receiver)?;
    receiver_link.negotiated = observer.negotiations();
    let receiver_config = ReceiverConfig {
        link: receiver_link,
        out: args.out.clone(),
        formats: args.format.clone(),
        count: Some(args.count),
        timeout: Some(args.timeout + args.picture.interval),
        once: false,
    };
    // Both tell from their own tasks; one place shows it.
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel();
    let sending = tokio::spawn({
        let (told, stopped) = (told.clone(), wait(stopped.clone()));
        async move {
            let mut tell = move |event| {
                let _ = told.send(Told::Sender(event));
            };
            sender::run(sender_config, stopped, &mut tell, &mut observe::no_lines()).await
        }
    });
    let receiving = tokio::spawn({
        let stopped = wait(stopped);
        async move {
            let mut tell = move |event| {
                let _ = told.send(Told::Receiver(event));
            };
            receiver::run(receiver_config, stopped, &mut tell, &mut observe::no_lines()).await
        }
    });
    let show = async {
        while let Some(telling) = tellings.recv().await {
            match telling {
                // One live line and one summary: those of the receiver.
                Told::Sender(sender::SenderEvent::Report(_)) => {}
                Told::Sender(sender::SenderEvent::Sent(sent)) => {
                    observer.line(&format!(
                        "send: keyframe {}, {} bytes, QP {}",
                        sent.info.seq,
                        sent.info.bytes,
                        sent.captured.qp.map_or("as it was".to_owned(), |qp| format!("{qp:.1}"))
                    ));
                    observer.stages(&sent.stages, &send::known(&sent, None));
                }
                Told::Sender(event) => send::show(observer, "send: ", event),
                Told::Receiver(event) => recv::show(observer, "recv: ", event),
            }
        }
    };
    let mut sending = sending;
    let mut receiving = receiving;
    let both = async {
        let (mut sent, mut received) = (None, None);
        let mut asked = Box::pin(stop::asked());
        while sent.is_none() || received.is_none() {
            tokio::select! {
                result = &mut sending, if sent.is_none() => {
                    let result = joined(result);
                    if result.is_err() {
                        stop.send_replace(true);
                    }
                    sent = Some(result.map(|_| ()));
                }
                result = &mut receiving, if received.is_none() => {
                    stop.send_replace(true);
                    received = Some(joined(result));
                }
                () = &mut asked, if !*stop.borrow() => { stop.send_replace(true); }
            }
        }
        (sent, received)
    };
    let ((sent, received), ()) = tokio::join!(both, show);
    sent.unwrap_or(Ok(()))?;
    match received {
        Some(Ok(ReceiverEnd::Count)) | None => Ok(()),
        Some(Ok(ReceiverEnd::Stopped | ReceiverEnd::PeerLeft)) => Err(SessionError {
            stage: Stage::Video,
            code: "stopped".into(),
            message: "stopped before all keyframes were there".into(),
            remedy: "let it run to its end; what came is in the directory".into(),
        }),
        Some(Err(error)) => Err(error),
    }
}

enum Told {
    Sender(sender::SenderEvent),
    Receiver(receiver::ReceiverEvent),
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

fn link(server: &RunningServer, device: &str, role: PeerRole) -> Result<LinkConfig, SessionError> {
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
    Ok(LinkConfig::new(ClientConfig::new(server.signal_url(), Arc::new(tokens)), peer))
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // The sender of the watch lives as long as the demo.
    let _ = stopped.wait_for(|stop| *stop).await;
}
