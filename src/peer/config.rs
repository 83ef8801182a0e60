//! The configuration of a peer, and the settings of the `rtc` crate derived from it.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use rtc::{
    ice::mdns::MulticastDnsMode,
    interceptor::{Registry, SenderReportBuilder, Slot},
    peer_connection::{
        configuration::{
            RTCConfiguration, RTCConfigurationBuilder, RTCIceTransportPolicy,
            media_engine::{MIME_TYPE_H264, MIME_TYPE_RTX, MediaEngine},
            setting_engine::{SettingEngine, SettingEngineBuilder},
        },
        transport::{RTCDtlsRole, RTCIceServer},
    },
    rtp_transceiver::rtp_sender::{
        RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability,
        RtpCodecKind,
    },
};

use super::{
    error::PeerError,
    local_network::{LocalNetwork, local_addresses},
    pacing::{Pacing, TRANSPORT_CC_URI, TransportCc},
    remb::ABS_SEND_TIME_URI,
    repair::{self, PeerRepairs, RepairReceiver, RepairSender, RttSeed, Rtx},
    rtp_observer::RtpObserver,
    sdp::PhonePath,
    streams::StreamServers,
};
use crate::{
    netsim::Gateway,
    proto::{control::CONTROL_LIFE_TIME, token::IceServer},
    stun::uri::{ServerUri, Transport, read_url},
    tls::Trust,
    types::CandidateType,
    units::RateSetting,
};

/// RTP payload type offered for H.264.
pub(crate) const PAYLOAD_TYPE: u8 = 102;

/// RTP payload type offered for retransmissions of H.264 (RFC 4588).
const RTX_PAYLOAD_TYPE: u8 = 103;

/// Default of [`PeerConfig::relay_wait`]: how long a check from a symmetric NAT is held back, plus a round trip and
/// a margin.
const RELAY_WAIT: Duration = Duration::from_millis(400);

/// The role of a peer in the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// The phone: offers, sends video.
    Sender,
    /// The Mac: answers, receives video.
    Receiver,
}

/// Which candidates ICE may use (W3C `RTCIceTransportPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IcePolicy {
    /// All candidates.
    #[default]
    All,
    /// Only relayed candidates.
    Relay,
}

/// The configuration of a peer.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The role in the pair.
    pub role: PeerRole,
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// The certificates trusted for `turns:` servers.
    pub trust: Trust,
    /// Which candidates may be used.
    pub ice_policy: IcePolicy,
    /// Types of local candidates to announce to the remote peer; empty means all.
    pub candidates: Vec<CandidateType>,
    /// Local addresses to gather host candidates on, see [`local_addresses`].
    pub addresses: Vec<IpAddr>,
    /// How to look up the addresses again at an ICE restart, since the network may have changed; `None` keeps the old
    /// ones.
    pub network: Option<LocalNetwork>,
    /// Maximum picture size that the sender will encode, pixels; determines the H.264 level offered.
    pub picture_size: (u32, u32),
    /// Minimum time that a relayed pair waits for a direct one, from the start of the checks: the crate nominates
    /// the first pair that works and keeps it. The sender, which nominates, waits longer where round trips are
    /// longer (`relay_wait`). There is no wait if only relays may be used.
    pub relay_wait: Duration,
    /// How long a message on the control channel is retransmitted before it is abandoned (`maxPacketLifeTime`, at
    /// most 65 s); `None` means forever. Delivery is unordered in either case.
    pub control_life_time: Option<Duration>,
    /// Simulated NATs and link in front of the peer; their inside address then replaces `addresses`.
    pub gateway: Option<Arc<Gateway>>,
    /// Whether lost packets are repaired. If not, NACK is neither offered nor accepted; used for comparisons.
    pub repair: bool,
    /// How fast the packets of a keyframe may be sent.
    pub pace: RateSetting,
    /// The rate that a receiver suggests to the phone's bandwidth estimator.
    pub phone_bitrate: RateSetting,
    /// The measured rate of the phone's path, carried from one connection to the next.
    pub phone_path: PhonePath,
}

impl PeerConfig {
    /// A peer of the given role on all addresses of this machine.
    #[must_use]
    pub fn new(role: PeerRole) -> Self {
        Self {
            role,
            ice_servers: Vec::new(),
            trust: Trust::web(),
            ice_policy: IcePolicy::All,
            candidates: Vec::new(),
            addresses: local_addresses(None, true, true, true),
            network: None,
            picture_size: (1280, 720),
            relay_wait: RELAY_WAIT,
            control_life_time: Some(CONTROL_LIFE_TIME),
            gateway: None,
            repair: true,
            pace: RateSetting::Auto,
            phone_bitrate: RateSetting::Auto,
            phone_path: PhonePath::default(),
        }
    }
}

/// Where the crate binds its sockets: evaluated again at each ICE restart.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    first: Vec<SocketAddr>,
    network: Option<LocalNetwork>,
}

impl Binding {
    pub(super) fn new(config: &PeerConfig) -> Self {
        let network = config.network.clone().filter(|_| config.gateway.is_none());
        Self { first: socket_addresses(config), network }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl ToSocketAddrs for Binding {
    type Iter = std::vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let now = self.network.as_ref().map(LocalNetwork::addresses).unwrap_or_default();
        let now: Vec<_> = now.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
        // While the machine changes networks it may have no address; with none, the connection would end permanently.
        Ok(if now.is_empty() { self.first.clone() } else { now }.into_iter())
    }
}

/// The `profile-level-id` to offer for pictures up to this size: constrained baseline at level 3.1, or the lowest
/// of 4.0, 5.1 and 5.2 that fits the picture (ITU-T H.264 table A-1, `MaxFS`).
#[must_use]
pub fn profile_level_id(size: (u32, u32)) -> &'static str {
    match macroblocks(size) {
        0..=3_600 => "42e01f",
        3_601..=8_192 => "42e028",
        8_193..=36_864 => "42e033",
        _ => "42e034",
    }
}

/// Whether the level offered for pictures of size `offered` also allows pictures of size `size` (ITU-T H.264 table
/// A-1, `MaxFS`, and §A.3.1 g and h: neither side may exceed the square root of 8 `MaxFS`).
#[must_use]
pub fn level_holds(offered: (u32, u32), size: (u32, u32)) -> bool {
    let max_blocks = match macroblocks(offered) {
        0..=3_600 => 3_600,
        3_601..=8_192 => 8_192,
        _ => 36_864,
    };
    let side = size.0.max(size.1).div_ceil(16);
    macroblocks(size) <= max_blocks && u64::from(side).pow(2) <= 8 * u64::from(max_blocks)
}

fn macroblocks((width, height): (u32, u32)) -> u32 {
    width.div_ceil(16).saturating_mul(height.div_ceil(16))
}

fn socket_addresses(config: &PeerConfig) -> Vec<SocketAddr> {
    if let Some(gateway) = &config.gateway {
        return vec![SocketAddr::new(gateway.inside(), 0)];
    }
    config.addresses.iter().map(|&ip| SocketAddr::new(ip, 0)).collect()
}

/// Whether this peer sends the phone an estimate of the path, see [`super::remb`].
fn limits_phone(config: &PeerConfig) -> bool {
    config.role == PeerRole::Receiver && config.phone_bitrate != RateSetting::Off
}

pub(crate) fn h264_codec(config: &PeerConfig) -> RTCRtpCodecParameters {
    let feedback = |typ: &str, parameter: &str| RTCPFeedback {
        typ: typ.to_owned(),
        parameter: parameter.to_owned(),
    };
    let nack = config.repair.then(|| feedback("nack", "")).into_iter();
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: MIME_TYPE_H264.to_owned(),
            clock_rate: 90_000,
            channels: 0,
            sdp_fmtp_line: format!(
                "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={}",
                profile_level_id(config.picture_size)
            ),
            rtcp_feedback: nack
                .chain([
                    feedback("nack", "pli"),
                    feedback("ccm", "fir"),
                    feedback("transport-cc", ""),
                ])
                .chain(limits_phone(config).then(|| feedback("goog-remb", "")))
                .collect(),
        },
        payload_type: PAYLOAD_TYPE,
    }
}

/// Retransmissions as a separate stream, for which only the payload type is negotiated (RFC 4588 §8.6).
fn rtx_codec() -> RTCRtpCodecParameters {
    RTCRtpCodecParameters {
        rtp_codec: RTCRtpCodec {
            mime_type: MIME_TYPE_RTX.to_owned(),
            clock_rate: 90_000,
            channels: 0,
            sdp_fmtp_line: format!("apt={PAYLOAD_TYPE}"),
            rtcp_feedback: Vec::new(),
        },
        payload_type: RTX_PAYLOAD_TYPE,
    }
}

pub(crate) fn media_engine(config: &PeerConfig) -> Result<MediaEngine, PeerError> {
    let mut engine = MediaEngine::default();
    engine
        .register_codec(h264_codec(config), RtpCodecKind::Video)
        .map_err(PeerError::crate_error("register the H.264 codec"))?;
    if config.repair {
        engine
            .register_codec(rtx_codec(), RtpCodecKind::Video)
            .map_err(PeerError::crate_error("register RTX"))?;
    }
    let numbers = RTCRtpHeaderExtensionCapability { uri: TRANSPORT_CC_URI.to_owned() };
    engine
        .register_header_extension(numbers, RtpCodecKind::Video, None)
        .map_err(PeerError::crate_error("register transport-wide sequence numbers"))?;
    if limits_phone(config) {
        let send_times = RTCRtpHeaderExtensionCapability { uri: ABS_SEND_TIME_URI.to_owned() };
        engine
            .register_header_extension(send_times, RtpCodecKind::Video, None)
            .map_err(PeerError::crate_error("register send times"))?;
    }
    Ok(engine)
}

/// The interceptor chain for RTP and RTCP. Our own NACK and receiver reports replace those of the crate.
pub(super) fn interceptors(
    config: &PeerConfig,
    rtp_observer: RtpObserver,
    rtx: Rtx,
    pacing: &Arc<Pacing>,
    rtt_seed: &RttSeed,
    peer_repairs: &PeerRepairs,
) -> Registry {
    let responder = RepairSender::new(config.repair, pacing.rate().clone(), rtt_seed.clone());
    let requester = RepairReceiver::new(config.repair, rtt_seed.clone(), peer_repairs.clone());
    Registry::new()
        // Nearest to the wire: it numbers everything that is sent, and reports everything that arrives, including
        // padding.
        .with(Slot::Custom(300), TransportCc::new(Arc::clone(pacing)))
        // Interceptors farther from the wire see no stream of retransmissions.
        .with(Slot::Custom(400), rtx)
        .with(Slot::Custom(500), rtp_observer)
        .with(Slot::NackResponder, responder)
        .with(Slot::NackGenerator, requester)
        .with(Slot::SenderReport, SenderReportBuilder::new().build())
}

/// Settings that differ from the crate's defaults, each because measurements showed that the default loses keyframes
/// or time.
pub(crate) fn setting_engine(config: &PeerConfig, mdns: MulticastDnsMode) -> SettingEngine {
    SettingEngineBuilder::new()
        // 64 packets by default: too few to repair a keyframe of 85 packets by retransmission.
        .with_srtp_replay_protection_window(repair::WINDOW.into())
        // 0.5 to 2 s by default, which elapse even if a pair was found long before.
        .with_srflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_relay_acceptance_min_wait(Some(relay_wait(config)))
        .with_host_acceptance_min_wait(Some(Duration::ZERO))
        // Every pair is checked at each tick, for 4 s: as long as a relayed pair may have to wait. With the default
        // tick of 200 ms, a check that crosses the peer's candidate in transit costs the full 200 ms; a tick shorter
        // than 25 ms would flood a slow uplink.
        .with_ice_connection_attempts(Some(Duration::from_millis(25)), Some(160))
        .with_ice_timeouts(
            Some(Duration::from_secs(4)),
            Some(Duration::from_secs(25)),
            Some(Duration::from_secs(2)),
        )
        .with_sctp_max_receive_buffer_size(4 << 20)
        // An ICE restart binds new sockets, on the machine's current addresses.
        .with_discard_local_candidates_during_ice_restart(true)
        .with_multicast_dns_mode(mdns)
        // In the crate, only the DTLS client sends the SCTP INIT (`rtc` 0.21.1, `handler/sctp.rs:705`), although RFC
        // 8841 §9.3 requires both ends to. werift sends it if it is the controlling ICE agent, which is the offerer,
        // and accepts none in that role. The DTLS server also has its keys before media can arrive.
        .with_answering_dtls_role(RTCDtlsRole::Server)
        .build()
}

/// Minimum wait of relayed pairs; zero at the peer that does not nominate.
pub(super) fn nomination_wait(config: &PeerConfig) -> Duration {
    match config.role {
        PeerRole::Sender => relay_wait(config),
        PeerRole::Receiver => Duration::ZERO,
    }
}

/// See [`PeerConfig::relay_wait`].
fn relay_wait(config: &PeerConfig) -> Duration {
    let relays_only = config.ice_policy == IcePolicy::Relay
        || matches!(config.candidates.as_slice(), [CandidateType::Relay]);
    if relays_only { Duration::ZERO } else { config.relay_wait }
}

pub(super) fn rtc_configuration(config: &PeerConfig, streams: &StreamServers) -> RTCConfiguration {
    let servers = config.ice_servers.iter().filter_map(|server| {
        let urls: Vec<String> =
            server.urls.iter().filter_map(|url| crate_url(url, server, streams)).collect();
        (!urls.is_empty()).then(|| RTCIceServer {
            urls,
            username: server.username.clone().unwrap_or_default(),
            credential: server.credential.clone().unwrap_or_default(),
        })
    });
    let policy = match config.ice_policy {
        IcePolicy::All => RTCIceTransportPolicy::All,
        IcePolicy::Relay => RTCIceTransportPolicy::Relay,
    };
    RTCConfigurationBuilder::new()
        .with_ice_servers(servers.collect())
        .with_ice_transport_policy(policy)
        .build()
}

/// The URL that the crate gets for a configured one; `None` if the crate would not understand it.
fn crate_url(url: &str, server: &IceServer, streams: &StreamServers) -> Option<String> {
    let uri = usable(url, server).ok()?;
    if uri.transport == Transport::Udp {
        return Some(uri.to_string());
    }
    Some(format!("turn:{}?transport=udp", streams.stand_in(url)?))
}

/// The parsed URL of an ICE server, or the reason why it cannot be used. If one server lacked credentials, the crate
/// would not build a connection with any of the servers (`rtc` 0.21.1, `transport/ice/server.rs`).
pub(super) fn usable(url: &str, server: &IceServer) -> Result<ServerUri, String> {
    let uri = read_url(url).map_err(|error| error.to_string())?;
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if uri.turn && !(given(&server.username) && given(&server.credential)) {
        return Err("a TURN server needs a username and a credential".into());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nominating_peer_waits_for_direct_pairs() {
        let config = |role| PeerConfig { addresses: Vec::new(), ..PeerConfig::new(role) };
        assert_eq!(nomination_wait(&config(PeerRole::Sender)), RELAY_WAIT);
        assert_eq!(nomination_wait(&config(PeerRole::Receiver)), Duration::ZERO);
        let relays = PeerConfig { ice_policy: IcePolicy::Relay, ..config(PeerRole::Sender) };
        assert_eq!(nomination_wait(&relays), Duration::ZERO);
    }

    #[test]
    fn the_level_follows_the_picture_size() {
        assert_eq!(profile_level_id((1280, 720)), "42e01f");
        assert_eq!(profile_level_id((1920, 1080)), "42e028");
        assert_eq!(profile_level_id((3840, 2160)), "42e033");
        let small = (320, 240);
        assert!(level_holds(small, (1280, 720)) && level_holds(small, (2704, 16)));
        assert!(!level_holds(small, (1280, 736)) && !level_holds(small, (2720, 16)));
        assert!(level_holds((1920, 1080), (1920, 1088)));
        assert!(level_holds((3840, 2160), (3840, 2160)));
    }

    #[test]
    fn loopback_is_included_on_request() {
        let addresses = local_addresses(None, true, false, true);
        assert_eq!(addresses.iter().filter(|ip| ip.is_loopback()).count(), 1);
        assert!(addresses.iter().all(IpAddr::is_ipv4));
    }

    #[test]
    fn the_crate_gets_only_urls_it_understands() {
        let urls =
            ["stun:s?transport=udp", "turn:t", "turns:t", "stuns:s", "turns:t?transport=udp"];
        let urls: Vec<String> = urls.map(str::to_owned).to_vec();
        let server = IceServer { urls, username: Some("u".into()), credential: Some("c".into()) };
        let streams = StreamServers::new(std::slice::from_ref(&server), Trust::web(), None);
        let given: Vec<String> =
            server.urls.iter().filter_map(|url| crate_url(url, &server, &streams)).collect();
        assert_eq!(
            given,
            ["stun:s:3478", "turn:t:3478?transport=udp", "turn:relay-1.invalid:5349?transport=udp"]
        );
    }
}
