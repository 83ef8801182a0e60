//! A link between two network interfaces, without `netem`: packet sockets (packet(7)) on both, and a
//! [`crate::netsim::link::LinkQueue`] for each direction. It runs in a namespace of its own, as the hidden command
//! `orion-peer lab wire`, and goes with the lab.
//!
//! Frames are copied with the header of their unfinished checksums and segments
//! (`struct virtio_net_hdr`, as the virtio specification §5.1.6 has it), so the kernel finishes them
//! where they arrive. Only IP is delayed or lost: address resolution, ARP or that of `ICMPv6`, would add
//! seconds of its own.

use std::time::Duration;

use super::error::KernelError;
use crate::nat::Link;

/// A link to run.
#[derive(Debug, Clone, PartialEq)]
pub struct WireConfig {
    /// Interface towards the peer.
    pub inner: String,
    /// Interface towards the internet.
    pub outer: String,
    /// What it does, each way.
    pub link: Link,
    /// Of what it loses.
    pub seed: u64,
}

impl WireConfig {
    /// Of one interface.
    #[cfg(target_os = "linux")]
    fn alone(interface: &str) -> Self {
        let name = || interface.to_owned();
        Self { inner: name(), outer: name(), link: Link::default(), seed: 0 }
    }

    fn failed(&self, operation: &'static str, cause: &dyn std::fmt::Display) -> KernelError {
        let (inner, outer) = (self.inner.clone(), self.outer.clone());
        KernelError::Wire { inner, outer, operation, cause: cause.to_string() }
    }
}

/// Longest wait for a packet that is due.
const IDLE: Duration = Duration::from_hours(1);

#[cfg(target_os = "linux")]
pub use self::linux::{capture, inject, run};

/// Runs the link until the process is killed; `ready` is called once it carries packets.
///
/// # Errors
/// Always: there are no packet sockets here.
#[cfg(not(target_os = "linux"))]
pub fn run(
    config: &WireConfig,
    _ready: impl FnOnce(),
    _changes: impl Iterator<Item = Link>,
) -> Result<(), KernelError> {
    let _ = (IDLE, config.failed("open", &"Linux only"));
    Err(KernelError::NotLinux)
}

/// Puts the frames on an interface, each as it comes; `ready` is called before the first.
///
/// # Errors
/// Always: there are no packet sockets here.
#[cfg(not(target_os = "linux"))]
pub fn inject(
    _interface: &str,
    _ready: impl FnOnce(),
    _frames: impl Iterator<Item = Vec<u8>>,
) -> Result<(), KernelError> {
    Err(KernelError::NotLinux)
}

/// Gives each frame of an interface, until `take` is false; `ready` is called before the first.
///
/// # Errors
/// Always: there are no packet sockets here.
#[cfg(not(target_os = "linux"))]
pub fn capture(
    _interface: &str,
    _ready: impl FnOnce(),
    _take: impl FnMut(&[u8]) -> bool,
) -> Result<(), KernelError> {
    Err(KernelError::NotLinux)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        cmp::Reverse,
        collections::BinaryHeap,
        io,
        mem::MaybeUninit,
        os::fd::AsRawFd,
        sync::{Condvar, Mutex, MutexGuard, PoisonError},
        thread,
        time::{Duration, Instant},
    };

    use nix::{
        ifaddrs::getifaddrs,
        libc,
        sys::socket::{LinkAddr, bind, setsockopt, sockopt},
    };
    use socket2::{Domain, Protocol, Socket, Type};

    use super::{IDLE, KernelError, WireConfig};
    use crate::{
        nat::Link,
        netsim::link::{Fate, LinkQueue},
    };

    nix::setsockopt_impl!(
        PacketVnetHdr,
        libc::SOL_PACKET,
        libc::PACKET_VNET_HDR,
        bool,
        sockopt::SetBool
    );

    /// `PACKET_VNET_HDR`: frames come and go with a [`VNET_HEADER`].
    #[derive(Debug, Clone, Copy)]
    struct PacketVnetHdr;

    /// Bytes of `struct virtio_net_hdr`.
    const VNET_HEADER: usize = 10;

    /// Bytes of an Ethernet header.
    const ETHERNET_HEADER: usize = 14;

    /// Next header number of `ICMPv6`.
    const ICMPV6: u8 = 58;

    /// Bytes of the IPv4 and UDP headers, which [`LinkQueue`] adds to a payload.
    const IP_UDP_HEADERS: usize = 28;

    /// A whole unsegmented TCP packet with its headers.
    const LARGEST: usize = 1 << 17;

    /// Bytes that may wait in a socket: a large keyframe comes at once.
    const SOCKET_BUFFER: usize = 8 << 20;

    /// Packets on the way in one direction; beyond it they are lost.
    const MOST_PACKETS: usize = 200_000;

    /// A packet on its way: when it is due, its number, its bytes.
    type Waiting = Reverse<(Duration, u64, Vec<u8>)>;

    /// One direction: what the link does to packets, and those on the way.
    struct Way {
        queue: Mutex<LinkQueue>,
        packets: Mutex<BinaryHeap<Waiting>>,
        changed: Condvar,
    }

    fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the link until the process is killed; `ready` is called once it carries packets, and what
    /// `changes` gives is what it does from then on.
    ///
    /// # Errors
    /// An interface is not there, or packet sockets cannot be had.
    pub fn run(
        config: &WireConfig,
        ready: impl FnOnce(),
        changes: impl Iterator<Item = Link>,
    ) -> Result<(), KernelError> {
        let inner = open(config, &config.inner)?;
        let outer = open(config, &config.outer)?;
        ready();
        let start = Instant::now();
        let ways = ["out", "in"].map(|direction| {
            let queue = LinkQueue::new(config.link, config.seed, direction);
            Way { queue: queue.into(), packets: Mutex::default(), changed: Condvar::new() }
        });
        thread::scope(|scope| {
            let ends = [(&inner, &outer), (&outer, &inner)];
            for ((from, to), way) in ends.into_iter().zip(&ways) {
                scope.spawn(move || receive(from, to, way, start));
                scope.spawn(move || deliver(to, way, start));
            }
            for link in changes {
                for way in &ways {
                    locked(&way.queue).set_link(link);
                }
            }
        });
        Ok(())
    }

    /// Puts the frames on an interface, each as it comes; `ready` is called before the first.
    ///
    /// # Errors
    /// The interface is not there, or packet sockets cannot be had.
    pub fn inject(
        interface: &str,
        ready: impl FnOnce(),
        frames: impl Iterator<Item = Vec<u8>>,
    ) -> Result<(), KernelError> {
        let socket = open(&WireConfig::alone(interface), interface)?;
        ready();
        for frame in frames {
            // Nothing is left for the kernel to finish.
            send(&socket, &[&[0; VNET_HEADER][..], &frame].concat());
        }
        Ok(())
    }

    /// Gives each frame of an interface, until `take` is false; `ready` is called before the first.
    ///
    /// # Errors
    /// The interface is not there, or packet sockets cannot be had.
    pub fn capture(
        interface: &str,
        ready: impl FnOnce(),
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), KernelError> {
        let socket = open(&WireConfig::alone(interface), interface)?;
        ready();
        let mut frame = vec![0; LARGEST];
        loop {
            // The interface is down for a moment.
            let Ok(length) = io::Read::read(&mut &socket, &mut frame) else { continue };
            if frame[..length].get(VNET_HEADER..).is_some_and(|frame| !take(frame)) {
                return Ok(());
            }
        }
    }

    fn open(config: &WireConfig, name: &str) -> Result<Socket, KernelError> {
        let failed = |operation, error: io::Error| config.failed(operation, &error);
        let every = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every))
            .map_err(|error| failed("open a packet socket", error))?;
        setsockopt(&socket, PacketVnetHdr, &true)
            .map_err(|error| failed("PACKET_VNET_HDR", error.into()))?;
        // Where it may not be forced, what is allowed must do.
        if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
            let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        }
        let address = interface(name)
            .map_err(|error| failed("list the interfaces", error))?
            .ok_or_else(|| config.failed("find the interface", &format!("no `{name}` here")))?;
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

    /// Throws away what came from other interfaces before the socket was bound.
    fn drain(socket: &Socket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let mut frame = [MaybeUninit::uninit(); 64];
        while socket.recv(&mut frame).is_ok() {}
        socket.set_nonblocking(false)
    }

    fn receive(mut from: &Socket, to: &Socket, way: &Way, start: Instant) {
        let mut frame = vec![0; LARGEST];
        for number in 0.. {
            // The interface is down for a moment, or the frame was larger than any should be.
            let Ok(length) = io::Read::read(&mut from, &mut frame) else { continue };
            let frame = &frame[..length];
            let headers = VNET_HEADER + ETHERNET_HEADER + IP_UDP_HEADERS;
            if !is_ip(frame) {
                send(to, frame);
                continue;
            }
            let now = start.elapsed();
            let fate = locked(&way.queue).send(now, length.saturating_sub(headers));
            let Fate::Due(due) = fate else { continue };
            let mut packets = locked(&way.packets);
            if due <= now && packets.is_empty() {
                drop(packets);
                send(to, frame);
            } else if packets.len() < MOST_PACKETS {
                packets.push(Reverse((due, number, frame.to_vec())));
                way.changed.notify_one();
            }
        }
    }

    fn deliver(to: &Socket, way: &Way, start: Instant) {
        let mut packets = locked(&way.packets);
        loop {
            let wait = match packets.peek() {
                Some(Reverse((due, ..))) => due.saturating_sub(start.elapsed()),
                None => IDLE,
            };
            if wait.is_zero() {
                if let Some(Reverse((_, _, frame))) = packets.pop() {
                    drop(packets);
                    send(to, &frame);
                    packets = locked(&way.packets);
                }
                continue;
            }
            let waited = way.changed.wait_timeout(packets, wait);
            packets = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// IPv4, or IPv6 that is not about neighbours and routers (RFC 4861).
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

    /// As on a cable: what the other end does not take is lost.
    fn send(to: &Socket, frame: &[u8]) {
        let _ = to.send(frame);
    }
}
