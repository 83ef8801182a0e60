//! A link between two network interfaces, without `netem`: packet sockets (packet(7)) on both, and a
//! [`crate::netsim::link::LinkQueue`] for each direction. It runs in its own namespace, as the hidden
//! command `orion-peer lab wire`, and ends with the lab.
//!
//! Frames are copied with the header that describes unfinished checksums and segments (`struct
//! virtio_net_hdr`, virtio specification §5.1.6), so the kernel completes them on arrival. Only IP packets
//! are delayed or lost: delays of address resolution (ARP, `ICMPv6`) would add further seconds.

use std::time::Duration;

use super::error::NetnsError;
use crate::nat::LinkSettings;

/// A link to run.
#[derive(Debug, Clone, PartialEq)]
pub struct WireConfig {
    /// Interface toward the peer.
    pub inner: String,
    /// Interface toward the internet.
    pub outer: String,
    /// Its properties, per direction.
    pub link: LinkSettings,
    /// Random seed of its losses.
    pub seed: u64,
}

impl WireConfig {
    /// Configuration of a single interface.
    #[cfg(target_os = "linux")]
    fn alone(interface: &str) -> Self {
        let name = || interface.to_owned();
        Self { inner: name(), outer: name(), link: LinkSettings::default(), seed: 0 }
    }

    fn failed(&self, operation: &'static str, cause: &dyn std::fmt::Display) -> NetnsError {
        let (inner, outer) = (self.inner.clone(), self.outer.clone());
        NetnsError::Wire { inner, outer, operation, cause: cause.to_string() }
    }
}

/// Maximum wait for a packet that is due.
const IDLE: Duration = Duration::from_hours(1);

#[cfg(target_os = "linux")]
pub use self::linux::{capture, inject, run};

/// Runs the link until the process is killed; `ready` is called once it carries packets.
///
/// # Errors
/// Always: this platform has no packet sockets.
#[cfg(not(target_os = "linux"))]
pub fn run(
    config: &WireConfig,
    _ready: impl FnOnce(),
    _changes: impl Iterator<Item = LinkSettings>,
) -> Result<(), NetnsError> {
    let _ = (IDLE, config.failed("open", &"Linux only"));
    Err(NetnsError::NotLinux)
}

/// Sends the frames on an interface as they are produced; `ready` is called before the first.
///
/// # Errors
/// Always: this platform has no packet sockets.
#[cfg(not(target_os = "linux"))]
pub fn inject(
    _interface: &str,
    _ready: impl FnOnce(),
    _frames: impl Iterator<Item = Vec<u8>>,
) -> Result<(), NetnsError> {
    Err(NetnsError::NotLinux)
}

/// Passes each frame of an interface to `take` until it returns false; `ready` is called before the first.
///
/// # Errors
/// Always: this platform has no packet sockets.
#[cfg(not(target_os = "linux"))]
pub fn capture(
    _interface: &str,
    _ready: impl FnOnce(),
    _take: impl FnMut(&[u8]) -> bool,
) -> Result<(), NetnsError> {
    Err(NetnsError::NotLinux)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        cmp::Reverse,
        collections::BinaryHeap,
        io,
        mem::MaybeUninit,
        os::fd::AsRawFd,
        sync::{Condvar, Mutex, PoisonError},
        thread,
        time::{Duration, Instant},
    };

    use nix::{
        ifaddrs::getifaddrs,
        libc,
        sys::socket::{LinkAddr, bind, setsockopt, sockopt},
    };
    use socket2::{Domain, Protocol, Socket, Type};

    use super::{IDLE, NetnsError, WireConfig};
    use crate::{
        lock::locked,
        nat::LinkSettings,
        netsim::link::{Fate, LinkQueue},
    };

    nix::setsockopt_impl!(
        PacketVnetHdr,
        libc::SOL_PACKET,
        libc::PACKET_VNET_HDR,
        bool,
        sockopt::SetBool
    );

    /// `PACKET_VNET_HDR`: frames are sent and received with a [`VNET_HEADER`].
    #[derive(Debug, Clone, Copy)]
    struct PacketVnetHdr;

    /// Size of `struct virtio_net_hdr` in bytes.
    const VNET_HEADER: usize = 10;

    /// Size of an Ethernet header in bytes.
    const ETHERNET_HEADER: usize = 14;

    /// Next-header number of `ICMPv6`.
    const ICMPV6: u8 = 58;

    /// Size of the IPv4 and UDP headers, which [`LinkQueue`] adds to a payload, in bytes.
    const IP_UDP_HEADERS: usize = 28;

    /// Maximum frame size: an unsegmented TCP packet with its headers.
    const MAX_FRAME: usize = 1 << 17;

    /// Socket buffer size in bytes: a large keyframe arrives as one burst.
    const SOCKET_BUFFER: usize = 8 << 20;

    /// Maximum number of packets in transit in one direction; further ones are lost.
    const MAX_PACKETS: usize = 200_000;

    /// A packet in transit: due time, sequence number, frame.
    type QueuedPacket = Reverse<(Duration, u64, Vec<u8>)>;

    /// One direction: the link, and the packets in transit.
    struct LinkDirection {
        queue: Mutex<LinkQueue>,
        packets: Mutex<BinaryHeap<QueuedPacket>>,
        changed: Condvar,
    }

    /// Runs the link until the process is killed; `ready` is called once it carries packets, and each item
    /// of `changes` replaces its properties.
    ///
    /// # Errors
    /// An interface does not exist, or packet sockets are not available.
    pub fn run(
        config: &WireConfig,
        ready: impl FnOnce(),
        changes: impl Iterator<Item = LinkSettings>,
    ) -> Result<(), NetnsError> {
        let inner = open(config, &config.inner)?;
        let outer = open(config, &config.outer)?;
        ready();
        let start = Instant::now();
        let directions = ["out", "in"].map(|direction| {
            let queue = LinkQueue::new(config.link, config.seed, direction);
            LinkDirection {
                queue: queue.into(),
                packets: Mutex::default(),
                changed: Condvar::new(),
            }
        });
        thread::scope(|scope| {
            let ends = [(&inner, &outer), (&outer, &inner)];
            for ((from, to), direction) in ends.into_iter().zip(&directions) {
                scope.spawn(move || receive(from, to, direction, start));
                scope.spawn(move || deliver(to, direction, start));
            }
            for link in changes {
                for direction in &directions {
                    locked(&direction.queue).set_link(link);
                }
            }
        });
        Ok(())
    }

    /// Sends the frames on an interface as they are produced; `ready` is called before the first.
    ///
    /// # Errors
    /// The interface does not exist, or packet sockets are not available.
    pub fn inject(
        interface: &str,
        ready: impl FnOnce(),
        frames: impl Iterator<Item = Vec<u8>>,
    ) -> Result<(), NetnsError> {
        let socket = open(&WireConfig::alone(interface), interface)?;
        ready();
        for frame in frames {
            // An empty header: the frame is complete.
            send(&socket, &[&[0; VNET_HEADER][..], &frame].concat());
        }
        Ok(())
    }

    /// Passes each frame of an interface to `take` until it returns false; `ready` is called before the
    /// first.
    ///
    /// # Errors
    /// The interface does not exist, or packet sockets are not available.
    pub fn capture(
        interface: &str,
        ready: impl FnOnce(),
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), NetnsError> {
        let socket = open(&WireConfig::alone(interface), interface)?;
        ready();
        let mut frame = vec![0; MAX_FRAME];
        loop {
            // An error means that the interface is temporarily down.
            let Ok(length) = io::Read::read(&mut &socket, &mut frame) else { continue };
            if frame[..length].get(VNET_HEADER..).is_some_and(|frame| !take(frame)) {
                return Ok(());
            }
        }
    }

    fn open(config: &WireConfig, name: &str) -> Result<Socket, NetnsError> {
        let failed = |operation, error: io::Error| config.failed(operation, &error);
        let every = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every))
            .map_err(|error| failed("open a packet socket", error))?;
        setsockopt(&socket, PacketVnetHdr, &true)
            .map_err(|error| failed("PACKET_VNET_HDR", error.into()))?;
        // If the buffer size cannot be forced, use the permitted maximum.
        if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
            let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        }
        let address =
            interface(name).map_err(|error| failed("list the interfaces", error))?.ok_or_else(
                || config.failed("find the interface", &format!("`{name}` does not exist")),
            )?;
        bind(socket.as_raw_fd(), &address).map_err(|error| failed("bind", error.into()))?;
        drain(&socket).map_err(|error| failed("empty the socket", error))?;
        Ok(socket)
    }

    fn interface(name: &str) -> io::Result<Option<LinkAddr>> {
        let found = getifaddrs()?
            .filter(|one| one.interface_name == name)
            .find_map(|one| one.address.and_then(|address| address.as_link_addr().copied()));
        Ok(found)
    }

    /// Discards packets that arrived from other interfaces before the socket was bound.
    fn drain(socket: &Socket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let mut frame = [MaybeUninit::uninit(); 64];
        while socket.recv(&mut frame).is_ok() {}
        socket.set_nonblocking(false)
    }

    fn receive(mut from: &Socket, to: &Socket, direction: &LinkDirection, start: Instant) {
        let mut frame = vec![0; MAX_FRAME];
        for number in 0.. {
            // An error means that the interface is temporarily down, or that the frame was too large.
            let Ok(length) = io::Read::read(&mut from, &mut frame) else { continue };
            let frame = &frame[..length];
            let headers = VNET_HEADER + ETHERNET_HEADER + IP_UDP_HEADERS;
            if !is_ip(frame) {
                send(to, frame);
                continue;
            }
            let now = start.elapsed();
            let fate = locked(&direction.queue).send(now, length.saturating_sub(headers));
            let Fate::Due(due) = fate else { continue };
            let mut packets = locked(&direction.packets);
            if due <= now && packets.is_empty() {
                drop(packets);
                send(to, frame);
            } else if packets.len() < MAX_PACKETS {
                packets.push(Reverse((due, number, frame.to_vec())));
                direction.changed.notify_one();
            }
        }
    }

    fn deliver(to: &Socket, direction: &LinkDirection, start: Instant) {
        let mut packets = locked(&direction.packets);
        loop {
            let wait = match packets.peek() {
                Some(Reverse((due, ..))) => due.saturating_sub(start.elapsed()),
                None => IDLE,
            };
            if wait.is_zero() {
                if let Some(Reverse((_, _, frame))) = packets.pop() {
                    drop(packets);
                    send(to, &frame);
                    packets = locked(&direction.packets);
                }
                continue;
            }
            let waited = direction.changed.wait_timeout(packets, wait);
            packets = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether it is IPv4, or IPv6 other than neighbor and router discovery (RFC 4861).
    fn is_ip(frame: &[u8]) -> bool {
        let Some(packet) = frame.get(VNET_HEADER + ETHERNET_HEADER..) else { return false };
        let ether_type = &frame[VNET_HEADER + 12..VNET_HEADER + 14];
        match ether_type {
            [0x08, 0x00] => true,
            [0x86, 0xdd] => {
                let icmp = packet.get(6) == Some(&ICMPV6);
                !(icmp && packet.get(40).is_some_and(|kind| (133..=137).contains(kind)))
            }
            _ => false,
        }
    }

    /// Sends a frame; as on a cable, a frame that the receiving end does not accept is lost.
    fn send(to: &Socket, frame: &[u8]) {
        let _ = to.send(frame);
    }
}
