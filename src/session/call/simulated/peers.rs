//! A model of the peer connections: identities, ICE generations, consent.

use super::*;

/// A model of one end of a peer connection: which certificate and ICE generation it knows of the other end, and its
/// state.
#[derive(Debug, Clone)]
pub(super) struct SimulatedPeer {
    /// Stands for the certificate fingerprint.
    pub(super) id: u64,
    /// Stands for the ICE credentials; incremented by an ICE restart.
    pub(super) generation: u32,
    pub(super) network: u32,
    pub(super) remote: Option<(u64, u32)>,
    pub(super) created: Instant,
    pub(super) state: ConnectionState,
    pub(super) established: Option<Instant>,
    pub(super) heard: Option<Instant>,
}

impl SimulatedPeer {
    pub(super) fn sdp(&self) -> String {
        format!("v=0\r\na=fingerprint:{}\r\na=ice-ufrag:{}\r\n", self.id, self.generation)
    }
}

pub(super) fn candidate() -> IceCandidateInit {
    IceCandidateInit {
        candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".into(),
        sdp_mid: None,
        sdp_mline_index: None,
        username_fragment: None,
    }
}

/// Fingerprint and generation of a description.
pub(super) fn read_sdp(sdp: &str) -> (u64, u32) {
    let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    (value("a=fingerprint:").parse().unwrap(), value("a=ice-ufrag:").parse().unwrap())
}

impl World {
    pub(super) fn vitals(&self, role: Role) -> Option<Vitals> {
        let peer = self.devices[index(role)].peer.as_ref()?;
        let since = |at: Instant| at - peer.created;
        Some(Vitals {
            now: since(self.now),
            ice: peer.established.map(since),
            dtls: peer.established.map(since),
            channel: peer.established.map(since),
            has_data: true,
            check: peer.heard.map(since),
            media: peer.heard.map(since),
            data: peer.heard.map(since),
            ..Vitals::default()
        })
    }

    /// Whether the peer connections of both devices belong together and their packets get through.
    pub(super) fn linked(&self) -> bool {
        let [phone, mac] = &self.devices;
        let (Some(a), Some(b)) = (&phone.peer, &mac.peer) else { return false };
        let ready = |device: &Device, peer: &SimulatedPeer| {
            device.stopped == 0 && device.is_online() && peer.network == device.network
        };
        a.remote == Some((b.id, b.generation))
            && b.remote == Some((a.id, a.generation))
            && ready(phone, a)
            && ready(mac, b)
            && self.path_broken == 0
    }

    /// Whether the peers are connected to each other, and know it.
    pub(super) fn are_connected(&self) -> bool {
        let connected = |device: &Device| {
            device.peer.as_ref().is_some_and(|peer| peer.state == ConnectionState::Connected)
        };
        self.linked() && self.devices.iter().all(connected)
    }

    pub(super) fn ice_tick(&mut self, role: Role) {
        let suspended = self.devices.iter().any(Device::is_suspended);
        let linked = self.linked() && !suspended;
        let (now, own) = (self.now, self.is_suspended(role));
        let Some(peer) = self.device(role).peer.as_mut().filter(|_| !own) else { return };
        let state = if linked {
            peer.heard = Some(now);
            peer.established.get_or_insert(now);
            ConnectionState::Connected
        } else {
            let silence = peer.heard.map(|heard| now - heard);
            match (peer.state, silence) {
                (ConnectionState::Connected, Some(silence)) if silence >= DISCONNECTED_AFTER => {
                    ConnectionState::Disconnected
                }
                (ConnectionState::Disconnected, Some(silence)) if silence >= FAILED_AFTER => {
                    ConnectionState::Failed
                }
                (state, _) => state,
            }
        };
        if std::mem::replace(&mut peer.state, state) != state {
            self.input(role, CallInput::Peer(PeerEvent::State(state)));
        }
        if self.active == 0 && self.are_connected() {
            self.healed.get_or_insert(self.now);
        }
    }

    pub(super) fn open_peer(&mut self, role: Role, remote: Option<(u64, u32)>) -> String {
        self.ids += 1;
        let (id, now) = (self.ids, self.now);
        let device = self.device(role);
        let peer = SimulatedPeer {
            id,
            generation: 1,
            network: device.network,
            remote,
            created: now,
            state: ConnectionState::New,
            established: None,
            heard: None,
        };
        let sdp = peer.sdp();
        device.peer = Some(peer);
        let gathering = self.jitter(200);
        self.at(gathering, Event::Candidates(role, id));
        sdp
    }

    pub(super) fn restart_peer(
        &mut self,
        role: Role,
        remote: Option<(u64, u32)>,
    ) -> Option<String> {
        let device = self.device(role);
        let network = device.network;
        let peer = device.peer.as_mut()?;
        peer.generation += 1;
        peer.network = network;
        peer.remote = remote;
        let (id, sdp) = (peer.id, peer.sdp());
        let gathering = self.jitter(200);
        self.at(gathering, Event::Candidates(role, id));
        Some(sdp)
    }
}
