//! Two peers in one process over loopback, and how the receiving session handles third-party
//! senders.

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use openh264::{
    OpenH264API,
    encoder::{BitRate, Encoder, EncoderConfig, IntraFramePeriod, RateControlMode},
    formats::YUVBuffer,
};
use orion_peer::{
    media::{
        decoder::Decoder,
        h264::{self, AccessUnit},
        sink::PictureFormat,
    },
    peer::{ConnectionState, Peer, PeerConfig, PeerEvent, PeerRole, rtp_observer::KeyframeRequest},
    proto::control::{ControlMessage, Id},
    server::{RunningServer, Server, ServerConfig},
    session::{
        Call, CallConfig, CallEvent,
        receiver::{self, ReceiverConfig, ReceiverEnd, ReceiverEvent, StoredKeyframe},
    },
    signaling::{client::ClientConfig, client::token_client::TokenClient},
    types::epoch_seconds,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use crate::run::HANG;

fn config(role: PeerRole) -> PeerConfig {
    let mut config = PeerConfig::new(role);
    config.addresses.retain(IpAddr::is_loopback);
    config
}

/// One of two peers, and its events except for candidates, which are passed to the remote peer.
pub struct End {
    pub peer: Arc<Peer>,
    events: mpsc::Receiver<PeerEvent>,
}

impl End {
    /// Waits for the first event for which `found` returns a value.
    pub async fn event<T>(&mut self, mut found: impl FnMut(PeerEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the peer has stopped");
                if let Some(found) = found(event) {
                    return found;
                }
            }
        };
        timeout(HANG, wait).await.expect("the event never occurred")
    }

    async fn message(&mut self) -> ControlMessage {
        self.event(|event| match event {
            PeerEvent::Control(message, ..) => Some(message),
            _ => None,
        })
        .await
    }
}

/// Passes candidates to the remote peer, and returns all other events.
fn pump(mut events: mpsc::Receiver<PeerEvent>, other: &Arc<Peer>) -> mpsc::Receiver<PeerEvent> {
    let (rest, out) = mpsc::channel(4096);
    let other = Arc::downgrade(other);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                PeerEvent::LocalCandidate(candidate) => {
                    let Some(other) = other.upgrade() else { continue };
                    other.add_candidate(candidate).await;
                }
                event => {
                    let _ = rest.send(event).await;
                }
            }
        }
    });
    out
}

/// A sender and a receiver whose control channels are open.
async fn pair() -> (End, End) {
    pair_of(config(PeerRole::Sender), config(PeerRole::Receiver)).await
}

/// Like `pair`, with these configurations.
pub async fn pair_of(sender: PeerConfig, receiver: PeerConfig) -> (End, End) {
    pair_that_offers(sender, receiver, |offer| offer).await
}

/// Like `pair_of`, with the offer changed before it reaches the receiver.
pub async fn pair_that_offers(
    sender: PeerConfig,
    receiver: PeerConfig,
    change: impl FnOnce(String) -> String,
) -> (End, End) {
    let (sender, sender_events) = Peer::new(sender).await.unwrap();
    let (receiver, receiver_events) = Peer::new(receiver).await.unwrap();
    let (sender, receiver) = (Arc::new(sender), Arc::new(receiver));
    let offer = sender.create_offer().await.unwrap();
    // Candidates that arrive before their description are kept.
    let sender_events = pump(sender_events, &receiver);
    let answer = receiver.accept_offer(change(offer)).await.unwrap();
    let receiver_events = pump(receiver_events, &sender);
    sender.accept_answer(answer).await.unwrap();
    let mut ends = (
        End { peer: sender, events: sender_events },
        End { peer: receiver, events: receiver_events },
    );
    for end in [&mut ends.0, &mut ends.1] {
        let (mut open, mut connected) = (false, false);
        end.event(|event| {
            open |= matches!(event, PeerEvent::ControlOpen);
            connected |= matches!(event, PeerEvent::State(ConnectionState::Connected));
            (open && connected).then_some(())
        })
        .await;
    }
    ends
}

/// A keyframe with a slice of this many bytes.
pub fn keyframe(bytes: u32) -> AccessUnit {
    // Parameter sets of a real stream, and a slice of bytes that need no emulation prevention.
    let real = Stream::new(64, 64).next(true);
    let mut data = Vec::new();
    for nal in h264::nal_units(&real) {
        match h264::nal_type(nal) {
            h264::NalType::Sps | h264::NalType::Pps => h264::append_nal(&mut data, nal),
            _ => {}
        }
    }
    let slice: Vec<u8> = (0..bytes).map(|at| (at % 251 + 4) as u8).collect();
    h264::append_nal(&mut data, &[&[0x65, 0x88][..], &slice].concat());
    unit(data)
}

/// An access unit with these bytes.
pub fn unit(data: impl Into<Bytes>) -> AccessUnit {
    let data = data.into();
    let (width, height) = h264::dimensions(&data).unwrap_or_default();
    AccessUnit { data, width, height, captured_at: SystemTime::now() }
}

/// The end of the event stream proves that no task, channel or track is left that could send an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_used_and_closed_leaves_nothing_behind() {
    let (sender, receiver) = pair().await;
    sender.peer.send_access_unit(&keyframe(50_000)).await.unwrap();
    let mut ends = [sender, receiver];
    ends[1].event(|event| matches!(event, PeerEvent::AccessUnit(_)).then_some(())).await;
    for End { peer, mut events } in ends {
        peer.close().await;
        drop(peer);
        let ended = async { while events.recv().await.is_some() {} };
        timeout(HANG, ended).await.expect("a part of a closed peer still exists");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_travel_in_both_directions_and_are_answered() {
    let (mut sender, mut receiver) = pair().await;
    let text = |text: &str| ControlMessage::Text { id: Id::Text("a".into()), text: text.into() };
    sender.peer.send_control(&text("from the phone")).await.unwrap();
    assert_eq!(receiver.message().await, text("from the phone"));
    receiver.peer.send_control(&text("from the mac")).await.unwrap();
    let channel = sender
        .event(|event| match event {
            PeerEvent::Control(message, channel, _) if message == text("from the mac") => {
                Some(channel)
            }
            _ => None,
        })
        .await;
    let ack = ControlMessage::Ack {
        id: Some(Id::Text("a".into())),
        error: None,
        width: None,
        height: None,
    };
    sender.peer.answer_control(&ack, &channel).await;
    assert_eq!(receiver.message().await, ack);
    sender.peer.close().await;
    receiver.peer.close().await;
    assert!(sender.peer.send_control(&text("too late")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_answered_by_the_peer_itself() {
    let (mut sender, mut receiver) = pair().await;
    let ts = serde_json::Number::from_f64(1_700_000_000.25).unwrap();
    let ping = ControlMessage::Ping { id: Id::Text("p".into()), ts: ts.clone(), pad: None };
    let (asked, asked_at) = (epoch_seconds(SystemTime::now()), Instant::now());
    sender.peer.send_control(&ping).await.unwrap();
    let (pong, read_at) = sender
        .event(|event| match event {
            PeerEvent::Control(message, _, read_at) => Some((message, read_at)),
            _ => None,
        })
        .await;
    let ControlMessage::Pong { id, ts: echoed, at: Some(at) } = pong else { panic!("{pong:?}") };
    assert_eq!((id, echoed), (Id::Text("p".into()), ts));
    assert!(asked <= at && at <= epoch_seconds(SystemTime::now()), "{asked} {at}");
    assert!(asked_at < read_at && read_at < Instant::now());
    // The ping itself is not reported, so the next message is the first event.
    let text = ControlMessage::Text { id: Id::Number(1), text: "after it".into() };
    sender.peer.send_control(&text).await.unwrap();
    assert_eq!(receiver.message().await, text);
    sender.peer.close().await;
    receiver.peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyframe_of_300_kb_arrives_complete_and_a_pli_is_sent_back() {
    let (mut sender, mut receiver) = pair().await;
    for round in 0..3 {
        let sent = keyframe(300_000);
        let packets = sender.peer.send_access_unit(&sent).await.unwrap().packets;
        let came = receiver
            .event(|event| match event {
                PeerEvent::AccessUnit(came) => Some(came),
                PeerEvent::Broken(broken) => panic!("{broken:?}"),
                _ => None,
            })
            .await;
        assert_eq!(came.unit.packets, packets, "round {round}");
        assert!(came.unit.data == sent.data, "round {round}: different bytes arrived");
    }
    assert!(receiver.peer.send_pli().await, "the track is unknown");
    let request = sender
        .event(|event| match event {
            PeerEvent::KeyframeRequested(request) => Some(request),
            _ => None,
        })
        .await;
    assert_eq!(request, KeyframeRequest::Pli);
    for end in [&sender, &receiver] {
        let stats = end.peer.stats().await;
        let bytes = stats.video_bytes_sent + stats.video_bytes_received;
        assert!(bytes > 900_000, "{bytes}");
        assert!(stats.pair.is_some(), "no selected pair");
    }
    sender.peer.close().await;
    receiver.peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_before_there_is_a_connection() {
    let (peer, _events) = Peer::new(config(PeerRole::Sender)).await.unwrap();
    assert!(peer.send_control(&ControlMessage::KeyframeRequest { reason: None }).await.is_err());
    assert!(!peer.send_pli().await);
    // Invalid descriptions or candidates are errors, not panics.
    assert!(peer.accept_answer("garbage".into()).await.is_err());
    peer.close().await;
    let (peer, _events) = Peer::new(config(PeerRole::Receiver)).await.unwrap();
    assert!(peer.accept_offer(String::new()).await.is_err());
    assert!(peer.send_access_unit(&unit(vec![0, 0, 0, 1, 0x65])).await.is_err());
    peer.close().await;
}

/// An ordinary encoder: one keyframe, then pictures that depend on it.
pub struct Stream {
    encoder: Encoder,
    width: usize,
    height: usize,
    pictures: usize,
}

impl Stream {
    pub fn new(width: usize, height: usize) -> Self {
        let config = EncoderConfig::new()
            .bitrate(BitRate::from_bps(2_000_000))
            .rate_control_mode(RateControlMode::Off)
            .scene_change_detect(false)
            .intra_frame_period(IntraFramePeriod::from_num_frames(100_000));
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config).unwrap();
        Self { encoder, width, height, pictures: 0 }
    }

    /// The next picture in Annex B format.
    pub fn next(&mut self, keyframe: bool) -> Vec<u8> {
        if keyframe {
            self.encoder.force_intra_frame();
        }
        let (width, height) = (self.width, self.height);
        self.pictures += 1;
        let mut picture = vec![128_u8; width * height * 3 / 2];
        for (at, luma) in picture[..width * height].iter_mut().enumerate() {
            *luma = (at % width * 3 + at / width + self.pictures * 5) as u8;
        }
        let data =
            self.encoder.encode(&YUVBuffer::from_vec(picture, width, height)).unwrap().to_vec();
        assert_eq!(h264::is_keyframe(&data), keyframe);
        data
    }
}

/// A server for a sending and a receiving session.
pub async fn server() -> RunningServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(ServerConfig::dev().await.unwrap(), listener).await.unwrap()
}

fn link(server: &RunningServer, device: &str, role: PeerRole) -> CallConfig {
    let tokens = TokenClient::new(&server.token_url(), "dev", device.into(), None).unwrap();
    let signaling = ClientConfig::new(server.signal_url(), Arc::new(tokens));
    CallConfig::new(signaling, config(role))
}

/// The reports of a receiving session.
#[derive(Default)]
pub struct ReceivedReports {
    pub keyframes: Vec<StoredKeyframe>,
    pub broken: u64,
}

/// Runs a receiving session until `count` keyframes are on disk.
pub async fn receive(server: &RunningServer, out: &Path, count: u64) -> ReceivedReports {
    let config = ReceiverConfig {
        call: link(server, "mac", PeerRole::Receiver),
        out: out.to_owned(),
        formats: vec![PictureFormat::H264, PictureFormat::Png],
        count: Some(count),
        timeout: Some(HANG / 2),
        once: false,
    };
    let mut received = ReceivedReports::default();
    let mut report = |event| match event {
        ReceiverEvent::Keyframe(keyframe) => received.keyframes.push(*keyframe),
        ReceiverEvent::Report(report) => received.broken = report.broken,
        _ => {}
    };
    let (_lines, mut texts) = mpsc::channel(1);
    let end = receiver::run(config, std::future::pending(), &mut report, &mut texts).await.unwrap();
    assert_eq!(end, ReceiverEnd::Count);
    received
}

/// A sender that has joined the room and is connected.
pub async fn sending(server: &RunningServer) -> (Call, Arc<Peer>) {
    let mut link = Call::start(link(server, "phone", PeerRole::Sender));
    loop {
        match link.next().await {
            CallEvent::Peer(PeerEvent::ControlOpen) => break,
            CallEvent::Failed(error) | CallEvent::Refused(error) => panic!("{error}"),
            _ => {}
        }
    }
    let peer = link.peer().unwrap();
    (link, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_a_full_event_queue_still_says_goodbye() {
    let server = server().await;
    let mut mac = Call::start(link(&server, "mac", PeerRole::Receiver));
    let met = async {
        loop {
            if let CallEvent::Peer(PeerEvent::ControlOpen) = mac.next().await {
                return;
            }
        }
    };
    let ((phone, _peer), ()) = tokio::join!(sending(&server), met);
    // More messages than its queue can hold: its task blocks on reporting the next one.
    let peer = mac.peer().unwrap();
    for number in 0..600 {
        let text = ControlMessage::Text { id: Id::Number(number), text: number.to_string() };
        peer.send_control(&text).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    phone.close("enough").await;
    let said = async {
        loop {
            match mac.next().await {
                CallEvent::Bye(reason, _) => return reason,
                CallEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    };
    assert_eq!(timeout(HANG, said).await.unwrap().as_deref(), Some("enough"));
    mac.close("done").await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_without_metadata_is_received() {
    let dir = tempfile::tempdir().unwrap();
    let server = server().await;
    let mut stream = Stream::new(320, 240);
    let sent: Vec<Vec<u8>> = (0..3).map(|_| stream.next(true)).collect();
    let (received, ()) = tokio::join!(timeout(HANG, receive(&server, dir.path(), 3)), async {
        let (link, peer) = sending(&server).await;
        for data in &sent {
            peer.send_access_unit(&unit(data.clone())).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        link.close("done").await;
    });
    let received = received.unwrap();
    assert_eq!((received.keyframes.len(), received.broken), (3, 0));
    for (keyframe, data) in received.keyframes.iter().zip(&sent) {
        let record = &keyframe.written.record;
        assert_eq!((record.verified, record.capture_time, record.latency_ms), (None, None, None));
        assert_eq!((record.width, record.height), (320, 240));
        assert!(std::fs::read(dir.path().join(&record.file)).unwrap() == *data);
        assert_eq!(keyframe.undecoded, None);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuous_stream_is_decoded_and_its_keyframes_written() {
    const GROUP: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    let server = server().await;
    let mut stream = Stream::new(320, 240);
    let (received, asked) = tokio::join!(timeout(HANG, receive(&server, dir.path(), 3)), async {
        let (mut link, peer) = sending(&server).await;
        // The receiver joins in the middle of the stream: nothing can be shown before a keyframe, so it
        // requests one.
        stream.next(true);
        let mut asked = None;
        while asked.is_none() {
            peer.send_access_unit(&unit(stream.next(false))).await.unwrap();
            let tick = tokio::time::sleep(Duration::from_millis(33));
            tokio::pin!(tick);
            loop {
                tokio::select! {
                    () = &mut tick => break,
                    event = link.next() => {
                        if let CallEvent::Peer(PeerEvent::KeyframeRequested(request)) = event {
                            asked = Some(request);
                        }
                    }
                }
            }
        }
        for picture in 0..=2 * GROUP {
            let data = stream.next(picture % GROUP == 0);
            peer.send_access_unit(&unit(data)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(33)).await;
        }
        link.close("done").await;
        asked
    });
    let received = received.unwrap();
    assert_eq!(asked, Some(KeyframeRequest::Pli));
    assert_eq!(received.keyframes.len(), 3);
    // Only pictures before the first keyframe are broken, none after it.
    let before = stream.pictures - 1 - (2 * GROUP + 1);
    assert!(received.broken <= before as u64, "{} of {before}", received.broken);
    for keyframe in &received.keyframes {
        let record = &keyframe.written.record;
        assert_eq!(keyframe.undecoded, None);
        let data = std::fs::read(dir.path().join(&record.file)).unwrap();
        let picture = Decoder::new().unwrap().decode(&data).unwrap();
        assert_eq!((picture.width, picture.height), (320, 240));
        assert_eq!(keyframe.written.files.len(), 2);
    }
    server.shutdown().await;
}
