//! A NAT stack and a link with real external sockets, for one or several peers.
//!
//! ```text
//!  peer's socket ─ NAT layers ─ link ─ one real UDP socket per mapping ─ STUN, TURN, other peers
//! ```
//!
//! Outbound packets pass the NATs and then the link; inbound packets pass the link and then the NATs.
//! Packets that a NAT hairpins do not pass its link. Two peers behind one gateway are on separate LANs:
//! only hairpinning connects them. Without delay, jitter and rate, packets are forwarded in the task that
//! sends or receives them; otherwise a thread forwards them when they are due.

mod passing;
mod ports;
pub mod socket;
pub mod stream;

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::runtime::Handle;
use webrtc::runtime::AsyncUdpSocket;

use self::{
    socket::GatewaySocket,
    stream::{Direction, StreamLink},
};
use super::{
    NetsimError,
    address::{self, Bind, Held},
    inside::{External, Inside},
    link::LinkQueue,
    stack::Stack,
    timer::Timer,
    translator::EveryPort,
};
use crate::nat::{LinkSettings, Profile};
use passing::Event;
pub(super) use passing::Sent;
use ports::{RealPorts, open};

/// Configuration of a gateway.
#[derive(Debug, Clone, Default)]
pub struct GatewayConfig {
    /// NATs and firewalls.
    pub profile: Profile,
    /// Initial properties of the link, per direction (see [`Gateway::set_link`]).
    pub link: LinkSettings,
    /// Random seed of ports, losses and jitter: the same seed and packets give the same result.
    pub seed: u64,
    /// External address: an address of this machine, such as that of the default route. `None`: a free
    /// loopback address in 127.64.0.0/10.
    pub outside: Option<IpAddr>,
}

/// Packet counts of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that were forwarded.
    pub passed: u64,
    /// Packets that a NAT or firewall blocked.
    pub filtered: u64,
    /// Packets that the link lost.
    pub lost: u64,
    /// Packets that were dropped because the queue was full.
    pub overflowed: u64,
}

/// Counters of a gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// Outbound packets.
    pub up: Traffic,
    /// Inbound packets.
    pub down: Traffic,
    /// Number of hairpinned packets.
    pub hairpinned: u64,
    /// Current number of mappings of the outermost NAT.
    pub mappings: usize,
}

/// The state needed for each packet, under one lock.
#[derive(Debug)]
struct Core {
    stack: Stack,
    link: LinkSettings,
    up: LinkQueue,
    down: LinkQueue,
    stats: GatewayStats,
    /// Real sockets by external address, with the inside socket that owns each.
    externals: HashMap<SocketAddr, (Arc<External>, Weak<Inside>)>,
    insides: HashMap<SocketAddr, Weak<Inside>>,
    /// Gateways behind this one, by external address.
    behind: HashMap<IpAddr, Weak<Gateway>>,
    /// Number of gateways that were attached behind this one.
    put_behind: u32,
    /// Time of the next sweep of expired mappings.
    next_sweep: Duration,
}

/// Router, carrier and access link of one or several peers.
pub struct Gateway {
    me: Weak<Self>,
    config: GatewayConfig,
    outside: IpAddr,
    /// Keeps the loopback address from other gateways.
    _held: Option<Held>,
    carrier: Option<Arc<Gateway>>,
    started: Instant,
    bind: Bind,
    core: Mutex<Core>,
    timer: OnceLock<Option<Timer<Event>>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("profile", &self.config.profile.to_string())
            .field("link", &self.link().to_string())
            .field("outside", &self.outside)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway to the network of this machine.
    ///
    /// # Errors
    /// [`NetsimError`] if the external address cannot be used.
    pub fn new(config: GatewayConfig) -> Result<Arc<Self>, NetsimError> {
        Self::bound_by(config, UdpSocket::bind)
    }

    fn bound_by(config: GatewayConfig, bind: Bind) -> Result<Arc<Self>, NetsimError> {
        let (outside, held) = if let Some(address) = config.outside {
            address::check(address, bind)?;
            (address, None)
        } else {
            let held = address::own_loopback(bind)?;
            (held.address, Some(held))
        };
        Self::build(config, outside, held, None, bind)
    }

    /// A gateway behind another, like a home router behind a carrier's NAT; several may share a carrier.
    /// [`GatewayConfig::outside`] is ignored: the external address is a private one of the carrier.
    ///
    /// # Errors
    /// [`NetsimError::Carrier`] if one of them does not translate.
    pub fn behind(carrier: &Arc<Self>, config: GatewayConfig) -> Result<Arc<Self>, NetsimError> {
        for profile in [&carrier.config.profile, &config.profile] {
            if !profile.translates() {
                return Err(NetsimError::Carrier { profile: profile.to_string() });
            }
        }
        let mut core = carrier.core();
        core.put_behind += 1;
        // 100.64.0.0/10 is reserved for networks behind carriers (RFC 6598).
        let outside = IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 + core.put_behind));
        drop(core);
        let gateway = Self::build(config, outside, None, Some(Arc::clone(carrier)), carrier.bind)?;
        carrier.core().behind.insert(outside, Arc::downgrade(&gateway));
        Ok(gateway)
    }

    fn build(
        config: GatewayConfig,
        outside: IpAddr,
        held: Option<Held>,
        carrier: Option<Arc<Self>>,
        bind: Bind,
    ) -> Result<Arc<Self>, NetsimError> {
        let address = match outside {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) if !config.profile.translates() => Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(_) => {
                let profile = config.profile.to_string();
                return Err(NetsimError::Ipv4Only { profile, address: outside });
            }
        };
        let core = Core {
            stack: Stack::new(&config.profile, address, config.seed),
            link: config.link,
            up: LinkQueue::new(config.link, config.seed, "up"),
            down: LinkQueue::new(config.link, config.seed, "down"),
            stats: GatewayStats::default(),
            externals: HashMap::new(),
            insides: HashMap::new(),
            behind: HashMap::new(),
            put_behind: 0,
            next_sweep: Duration::ZERO,
        };
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config,
            outside,
            _held: held,
            carrier,
            started: Instant::now(),
            bind,
            core: Mutex::new(core),
            timer: OnceLock::new(),
        }))
    }

    /// NATs and firewalls.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.config.profile
    }

    /// Properties of the link.
    #[must_use]
    pub fn link(&self) -> LinkSettings {
        self.core().link
    }

    /// Changes the link for subsequent packets in both directions, for example to simulate an outage.
    /// Packets in transit keep their due time.
    pub fn set_link(&self, link: LinkSettings) {
        let mut core = self.core();
        core.link = link;
        core.up.set_link(link);
        core.down.set_link(link);
    }

    /// The external address.
    #[must_use]
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// The only address on which a peer behind this gateway must gather. Without translation it is the
    /// external address itself; behind a NAT, an address that is unreachable from outside.
    #[must_use]
    pub fn inside(&self) -> IpAddr {
        let hidden = self.outside.is_loopback() || self.carrier.is_some();
        if hidden && self.config.profile.translates() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.outside
        }
    }

    /// Puts a peer's socket behind this gateway. Requires a Tokio runtime.
    ///
    /// # Errors
    /// The socket's address cannot be behind the gateway, or there is no runtime.
    pub fn wrap(self: &Arc<Self>, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(self.attach(socket)?))
    }

    /// A new socket behind this gateway. Requires a Tokio runtime.
    ///
    /// # Errors
    /// [`NetsimError::Inside`].
    pub fn bind(self: &Arc<Self>) -> Result<GatewaySocket, NetsimError> {
        let address = self.inside();
        let socket = (self.bind)(SocketAddr::new(address, 0));
        socket
            .and_then(|socket| self.attach(socket))
            .map_err(|source| NetsimError::Inside { address, source })
    }

    fn attach(self: &Arc<Self>, socket: UdpSocket) -> io::Result<GatewaySocket> {
        let address = socket.local_addr()?;
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        if address.ip().is_unspecified() {
            let words = format!(
                "a peer behind a gateway needs a specific address, not {address}: gather on {}",
                self.inside()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let private = self.config.profile.translates();
        if private && address.is_ipv6() {
            let profile = self.config.profile.to_string();
            let error = NetsimError::Ipv4Only { profile, address: address.ip() };
            return Err(io::Error::new(io::ErrorKind::Unsupported, error));
        }
        let inside = if private {
            // Packets that reach the socket directly from outside must not fill memory.
            let _ = SockRef::from(&socket).set_recv_buffer_size(0);
            Arc::new(Inside::new(address, runtime, Some(socket)))
        } else {
            let inside = Arc::new(Inside::new(address, runtime, None));
            let external = open(address, socket, &inside)?;
            self.core().externals.insert(address, (Arc::clone(&external), Arc::downgrade(&inside)));
            inside.add(external);
            inside
        };
        self.core().insides.insert(address, Arc::downgrade(&inside));
        Ok(GatewaySocket::new(Arc::clone(self), self.outermost(), inside))
    }

    /// Removes the mappings and real sockets of a socket that was closed.
    pub(super) fn detach(&self, inside: &Inside) {
        self.forget(inside.address);
    }

    fn forget(&self, address: SocketAddr) {
        let mut core = self.core();
        core.insides.remove(&address);
        let ended = match &self.carrier {
            None => {
                core.externals.remove(&address);
                let Core { stack, externals, .. } = &mut *core;
                stack.forget(address, &mut RealPorts::new(externals, None));
                Vec::new()
            }
            Some(_) => core.stack.forget(address, &mut EveryPort),
        };
        drop(core);
        if let Some(carrier) = &self.carrier {
            for external in ended {
                carrier.forget(external);
            }
        }
    }

    /// The link of this gateway for a TCP connection, in one direction.
    #[must_use]
    pub fn stream_link(self: &Arc<Self>, direction: Direction) -> StreamLink {
        StreamLink::new(Arc::clone(self), direction)
    }

    /// Current counters.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        let core = self.core();
        GatewayStats { mappings: core.stack.mappings(), ..core.stats }
    }

    fn outermost(self: &Arc<Self>) -> Arc<Self> {
        self.carrier.as_ref().map_or_else(|| Arc::clone(self), Self::outermost)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("no holder of this lock panics")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
