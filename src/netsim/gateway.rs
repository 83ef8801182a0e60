//! A NAT stack and a link with real sockets outside, for one or several peers.
//!
//! ```text
//!  peer's socket ─ NAT layers ─ link ─ one real UDP socket a mapping ─ STUN, TURN, other peers
//! ```
//!
//! Going out, a packet meets the NATs, then the link; coming in, the link, then the NATs. Packets that
//! turn back at a NAT never see its link. Two peers behind one gateway are on LANs of their own: only
//! hairpinning connects them. Without delay, jitter and rate, packets are passed on in the task that
//! sends or receives them; otherwise a thread passes them on at their time.

mod passing;
mod ports;

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

use super::{
    LabError,
    address::{self, Bind, Held},
    inside::{External, Inside},
    link::LinkQueue,
    socket::GatewaySocket,
    stack::Stack,
    stream::{Direction, StreamLink},
    timer::Timer,
    translator::EveryPort,
};
use crate::nat::{Link, Profile};
use passing::Event;
pub(super) use passing::Sent;
use ports::{RealPorts, open};

/// What a gateway is made from.
#[derive(Debug, Clone, Default)]
pub struct GatewayConfig {
    /// NATs and firewalls.
    pub profile: Profile,
    /// What the link does to each direction, at first (see [`Gateway::set_link`]).
    pub link: Link,
    /// Decides ports, losses and jitter: the same seed and packets give the same.
    pub seed: u64,
    /// An address of this machine for the outside, such as the one that leads to the internet. Without
    /// it the gateway takes a loopback address of its own from 127.64.0.0/10.
    pub outside: Option<IpAddr>,
}

/// What became of the packets of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Passed on.
    pub passed: u64,
    /// Stopped by a NAT or firewall.
    pub filtered: u64,
    /// Lost on the link.
    pub lost: u64,
    /// Dropped because a queue was full.
    pub overflowed: u64,
}

/// Counts of a gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// From inside to outside.
    pub up: Traffic,
    /// From outside to inside.
    pub down: Traffic,
    /// From inside back to inside.
    pub hairpinned: u64,
    /// Mappings of the outermost NAT now.
    pub mappings: usize,
}

/// What every packet needs, under one lock.
#[derive(Debug)]
struct Core {
    stack: Stack,
    link: Link,
    up: LinkQueue,
    down: LinkQueue,
    stats: GatewayStats,
    /// Real sockets by the address the outside sees, and whose they are.
    externals: HashMap<SocketAddr, (Arc<External>, Weak<Inside>)>,
    insides: HashMap<SocketAddr, Weak<Inside>>,
    /// Gateways behind this one, by their outside address.
    behind: HashMap<IpAddr, Weak<Gateway>>,
    /// How many gateways were put behind this one.
    put_behind: u32,
    /// When mappings are looked through for expired ones.
    next_sweep: Duration,
}

/// Router, carrier and access link of one or several peers.
pub struct Gateway {
    me: Weak<Self>,
    config: GatewayConfig,
    outside: IpAddr,
    /// Keeps a loopback address from other gateways.
    _held: Option<Held>,
    carrier: Option<Arc<Gateway>>,
    begun: Instant,
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
    /// [`LabError`] when the outside address cannot be used.
    pub fn new(config: GatewayConfig) -> Result<Arc<Self>, LabError> {
        Self::bound_by(config, UdpSocket::bind)
    }

    fn bound_by(config: GatewayConfig, bind: Bind) -> Result<Arc<Self>, LabError> {
        let (outside, held) = if let Some(address) = config.outside {
            address::check(address, bind)?;
            (address, None)
        } else {
            let held = address::own_loopback(bind)?;
            (held.address, Some(held))
        };
        Self::build(config, outside, held, None, bind)
    }

    /// A gateway behind another, as a home router behind a carrier's NAT; several may share one carrier.
    /// [`GatewayConfig::outside`] is not looked at: its outside is a private address of the carrier.
    ///
    /// # Errors
    /// [`LabError::Carrier`] when one of them does not translate.
    pub fn behind(carrier: &Arc<Self>, config: GatewayConfig) -> Result<Arc<Self>, LabError> {
        for profile in [&carrier.config.profile, &config.profile] {
            if !profile.translates() {
                return Err(LabError::Carrier { profile: profile.to_string() });
            }
        }
        let mut core = carrier.core();
        core.put_behind += 1;
        // 100.64.0.0/10 is for what is behind carriers (RFC 6598).
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
    ) -> Result<Arc<Self>, LabError> {
        let address = match outside {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) if !config.profile.translates() => Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(_) => {
                let profile = config.profile.to_string();
                return Err(LabError::Ipv4Only { profile, address: outside });
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
            begun: Instant::now(),
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

    /// What the link does.
    #[must_use]
    pub fn link(&self) -> Link {
        self.core().link
    }

    /// Changes what the link does to packets from now on, in both directions: for outages, or a link
    /// that gets worse. Packets on their way keep their time.
    pub fn set_link(&self, link: Link) {
        let mut core = self.core();
        core.link = link;
        core.up.set_link(link);
        core.down.set_link(link);
    }

    /// The address packets leave by.
    #[must_use]
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// The one address a peer behind this gateway must gather on. Without translation it is the outside
    /// address itself; behind a NAT one that nobody outside can reach it by.
    #[must_use]
    pub fn inside(&self) -> IpAddr {
        let hidden = self.outside.is_loopback() || self.carrier.is_some();
        if hidden && self.config.profile.translates() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.outside
        }
    }

    /// Puts a peer's socket behind this gateway, inside a Tokio runtime.
    ///
    /// # Errors
    /// When the socket is on an address that cannot be behind it, or there is no runtime.
    pub fn wrap(self: &Arc<Self>, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(self.attach(socket)?))
    }

    /// A new socket behind this gateway, inside a Tokio runtime.
    ///
    /// # Errors
    /// [`LabError::Inside`].
    pub fn bind(self: &Arc<Self>) -> Result<GatewaySocket, LabError> {
        let address = self.inside();
        let socket = (self.bind)(SocketAddr::new(address, 0));
        socket
            .and_then(|socket| self.attach(socket))
            .map_err(|source| LabError::Inside { address, source })
    }

    fn attach(self: &Arc<Self>, socket: UdpSocket) -> io::Result<GatewaySocket> {
        let address = socket.local_addr()?;
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        if address.ip().is_unspecified() {
            let words = format!(
                "a peer behind a gateway needs one address, {address} stands for all: gather on {}",
                self.inside()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let private = self.config.profile.translates();
        if private && address.is_ipv6() {
            let profile = self.config.profile.to_string();
            let error = LabError::Ipv4Only { profile, address: address.ip() };
            return Err(io::Error::new(io::ErrorKind::Unsupported, error));
        }
        let inside = if private {
            // What reaches it from outside must not fill memory.
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

    /// Ends the mappings and real sockets of a socket that is gone.
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

    /// Counts until now.
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
        self.begun.elapsed()
    }
}
