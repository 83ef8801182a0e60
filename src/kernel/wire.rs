//! A link between two network interfaces, without `netem`: packet sockets (packet(7)) on both, and a
//! [`crate::lab::link::LinkQueue`] for each direction. It runs in a namespace of its own, as the hidden command
//! `orion-peer lab wire`, and goes with the lab.
//!
//! Frames are copied with the header of their unfinished checksums and segments
//! (`struct virtio_net_hdr`, as the virtio specification §5.1.6 has it), so the kernel finishes them
//! where they arrive. Only IPv4 is delayed or lost: address resolution would add seconds of its own.

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
    fn failed(&self, operation: &'static str, cause: &dyn std::fmt::Display) -> KernelError {
        let (inner, outer) = (self.inner.clone(), self.outer.clone());
        KernelError::Wire { inner, outer, operation, cause: cause.to_string() }
    }
}

/// Longest wait for a packet that is due.
const IDLE: Duration = Duration::from_hours(1);

#[cfg(target_os = "linux")]
pub use self::linux::run;

/// Runs the link until the process is killed; `ready` is called once it carries packets.
///
/// # Errors
/// Always: there are no packet sockets here.
#[cfg(not(target_os = "linux"))]
pub fn run(config: &WireConfig, _ready: impl FnOnce()) -> Result<(), KernelError> {
    let _ = (IDLE, config.failed("open", &"Linux only"));
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
    use crate::lab::link::{Fate, LinkQueue};

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

    /// Packets on the way in one direction.
    #[derive(Default)]
    struct Way {
        packets: Mutex<BinaryHeap<Waiting>>,
        changed: Condvar,
    }

    impl Way {
        fn lock(&self) -> MutexGuard<'_, BinaryHeap<Waiting>> {
            self.packets.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Runs the link until the process is killed; `ready` is called once it carries packets.
    ///
    /// # Errors
    /// An interface is not there, or packet sockets cannot be had.
    pub fn run(config: &WireConfig, ready: impl FnOnce()) -> Result<(), KernelError> {
        let inner = open(config, &config.inner)?;
        let outer = open(config, &config.outer)?;
        ready();
        let start = Instant::now();
        let ways = [Way::default(), Way::default()];
        thread::scope(|scope| {
            let ends = [(&inner, &outer, "out"), (&outer, &inner, "in")];
            for ((from, to, direction), way) in ends.into_iter().zip(&ways) {
                let queue = LinkQueue::new(config.link, config.seed, direction);
                scope.spawn(move || receive(from, to, queue, way, start));
                scope.spawn(move || deliver(to, way, start));
            }
        });
        Ok(())
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

    fn receive(mut from: &Socket, to: &Socket, mut queue: LinkQueue, way: &Way, start: Instant) {
        let mut frame = vec![0; LARGEST];
        for number in 0.. {
            // The interface is down for a moment, or the frame was larger than any should be.
            let Ok(length) = io::Read::read(&mut from, &mut frame) else { continue };
            let frame = &frame[..length];
            let headers = VNET_HEADER + ETHERNET_HEADER + IP_UDP_HEADERS;
            if !is_ipv4(frame) {
                send(to, frame);
                continue;
            }
            let now = start.elapsed();
            let Fate::Due(due) = queue.send(now, length.saturating_sub(headers)) else { continue };
            let mut packets = way.lock();
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
        let mut packets = way.lock();
        loop {
            let wait = match packets.peek() {
                Some(Reverse((due, ..))) => due.saturating_sub(start.elapsed()),
                None => IDLE,
            };
            if wait.is_zero() {
                if let Some(Reverse((_, _, frame))) = packets.pop() {
                    drop(packets);
                    send(to, &frame);
                    packets = way.lock();
                }
                continue;
            }
            let waited = way.changed.wait_timeout(packets, wait);
            packets = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_ipv4(frame: &[u8]) -> bool {
        frame.get(VNET_HEADER + 12..VNET_HEADER + 14) == Some(&[0x08, 0x00])
    }

    /// As on a cable: what the other end does not take is lost.
    fn send(to: &Socket, frame: &[u8]) {
        let _ = to.send(frame);
    }
}
