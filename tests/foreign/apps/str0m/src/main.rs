//! str0m: sans-IO WebRTC, as an engine for `engine.js`, which describes the protocol on stdin and stdout. One UDP socket
//! on loopback is its only candidate.

use std::{
    error::Error,
    fmt::Write,
    fs,
    io::{self, BufRead, ErrorKind},
    net::UdpSocket,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    channel::{ChannelConfig, ChannelId, Reliability},
    crypto::from_feature_flags,
    media::{Direction, MediaKind, MediaTime, Mid},
    net::{Protocol, Receive},
};

/// Maximum wait for a packet: requests on stdin are handled between two waits.
const LOOK: Duration = Duration::from_millis(5);

/// Maximum size of a packet, bytes.
const PACKET: usize = 2000;

type Failure = Box<dyn Error>;

fn say(what: &Value) {
    println!("{what}");
}

fn text<'a>(request: &'a Value, key: &str) -> &'a str {
    request[key].as_str().unwrap_or_default()
}

struct Engine {
    rtc: Rtc,
    socket: UdpSocket,
    phone: bool,
    connected: bool,
    unit: Option<Arc<[u8]>>,
    every: Duration,
    next: Instant,
    start: Instant,
    video: Option<Mid>,
    /// The index of a channel is its number.
    channels: Vec<ChannelId>,
    pending: Option<SdpPendingOffer>,
}

impl Engine {
    fn new(request: &Value) -> Result<Self, Failure> {
        let now = Instant::now();
        let phone = text(request, "role") == "phone";
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let mut rtc = Rtc::builder().clear_codecs().enable_h264(true).build(now);
        rtc.add_local_candidate(Candidate::host(socket.local_addr()?, "udp")?);
        let unit = match text(request, "unit") {
            "" => None,
            path => Some(fs::read(path)?.into()),
        };
        let every = Duration::from_millis(request["every"].as_u64().unwrap_or(1000));
        Ok(Self {
            rtc,
            socket,
            phone,
            connected: false,
            unit,
            every,
            next: now,
            start: now,
            video: None,
            channels: Vec::new(),
            pending: None,
        })
    }

    fn asked(&mut self, request: &Value) -> Result<(), Failure> {
        match text(request, "do") {
            "offer" => self.offer(request["restart"] == true),
            "remote" => self.remote(text(request, "type"), text(request, "sdp")),
            "candidate" => {
                let candidate = text(request, "candidate");
                self.rtc.add_remote_candidate(Candidate::from_sdp_string(candidate)?);
                Ok(())
            }
            "stop" => {
                self.unit = None;
                Ok(())
            }
            "say" => {
                let number = request["channel"].as_u64().ok_or("no channel")? as usize;
                let id = *self.channels.get(number).ok_or("no such channel")?;
                let mut channel = self.rtc.channel(id).ok_or("the channel is not open")?;
                channel.write(false, text(request, "text").as_bytes())?;
                Ok(())
            }
            other => Err(format!("no such request: {other}").into()),
        }
    }

    /// Makes an offer of the phone: the first contains a video and the control channel, later ones restart ICE.
    fn offer(&mut self, restart: bool) -> Result<(), Failure> {
        let mut api = self.rtc.sdp_api();
        if restart {
            api.ice_restart(true);
        } else {
            let video = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
            self.video = Some(video);
            let label = "control".to_owned();
            let reliability = Reliability::MaxPacketLifetime { lifetime: 100 };
            let config = ChannelConfig { label, ordered: false, reliability, ..Default::default() };
            self.channels.push(api.add_channel_with_config(config));
        }
        let (offer, pending) = api.apply().ok_or("nothing to offer")?;
        self.pending = Some(pending);
        say(&json!({ "description": { "type": "offer", "sdp": offer.to_sdp_string() } }));
        Ok(())
    }

    fn remote(&mut self, kind: &str, sdp: &str) -> Result<(), Failure> {
        if kind == "answer" {
            let pending = self.pending.take().ok_or("no offer waits for an answer")?;
            let answer = SdpAnswer::from_sdp_string(sdp)?;
            self.rtc.sdp_api().accept_answer(pending, answer)?;
            say(&json!({ "taken": true }));
            return Ok(());
        }
        let answer = self.rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(sdp)?)?;
        say(&json!({ "description": { "type": "answer", "sdp": answer.to_sdp_string() } }));
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.connected = true;
                self.next = Instant::now();
                say(&json!({ "state": "connected" }));
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                say(&json!({ "state": "disconnected" }));
            }
            Event::IceConnectionStateChange(
                IceConnectionState::Connected | IceConnectionState::Completed,
            ) if self.connected => say(&json!({ "state": "connected" })),
            Event::ChannelOpen(id, label) => {
                let known = self.channels.iter().position(|other| *other == id);
                let number = known.unwrap_or(self.channels.len());
                if known.is_none() {
                    self.channels.push(id);
                }
                say(&json!({ "opened": number, "label": label }));
            }
            Event::ChannelData(data) => {
                let number = self.channels.iter().position(|id| *id == data.id);
                say(&json!({ "heard": String::from_utf8_lossy(&data.data), "channel": number }));
            }
            Event::MediaData(media) => {
                let mut digits = String::with_capacity(2 * media.data.len());
                for byte in media.data.iter() {
                    let _ = write!(digits, "{byte:02x}");
                }
                say(&json!({ "unit": digits }));
            }
            _ => {}
        }
    }

    /// The phone's next picture, when it is due.
    fn capture(&mut self, now: Instant) -> Result<(), Failure> {
        let (true, true, Some(unit), Some(mid)) =
            (self.phone, self.connected, self.unit.clone(), self.video)
        else {
            return Ok(());
        };
        if now < self.next {
            return Ok(());
        }
        self.next = now + self.every;
        let Some(writer) = self.rtc.writer(mid) else { return Ok(()) };
        let pt = writer.payload_params().next().ok_or("no H.264 was negotiated")?.pt();
        let time = MediaTime::from_90khz((now - self.start).as_millis() as u64 * 90);
        writer.write(pt, now, time, unit)?;
        say(&json!({ "picture": true }));
        Ok(())
    }

    /// Sends pending packets, then reads at most one packet.
    fn turn(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        let until = loop {
            match self.rtc.poll_output()? {
                Output::Timeout(until) => break until,
                Output::Transmit(packet) => {
                    // Packets that the network rejects are lost.
                    let _ = self.socket.send_to(&packet.contents, packet.destination);
                }
                Output::Event(event) => self.on_event(event),
            }
        };
        let wait = until.saturating_duration_since(Instant::now()).min(LOOK);
        if !wait.is_zero() {
            self.socket.set_read_timeout(Some(wait))?;
            match self.socket.recv_from(buffer) {
                Ok((length, source)) => {
                    let destination = self.socket.local_addr()?;
                    let Ok(contents) = buffer[..length].try_into() else { return Ok(()) };
                    let packet = Receive { proto: Protocol::Udp, source, destination, contents };
                    self.rtc.handle_input(Input::Receive(Instant::now(), packet))?;
                    return Ok(());
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // An ICMP error for a packet to a closed port.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.rtc.handle_input(Input::Timeout(Instant::now()))?;
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    from_feature_flags().install_process_default();
    let (asks, asked) = mpsc::channel::<Value>();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(request) = serde_json::from_str(&line) else { continue };
            if asks.send(request).is_err() {
                return;
            }
        }
        // The parent process has ended.
        std::process::exit(0);
    });
    let mut engine = Engine::new(&asked.recv()?)?;
    let mut buffer = vec![0; PACKET];
    loop {
        while let Ok(request) = asked.try_recv() {
            if let Err(error) = engine.asked(&request) {
                say(&json!({ "error": error.to_string() }));
            }
        }
        engine.capture(Instant::now())?;
        engine.turn(&mut buffer)?;
    }
}
