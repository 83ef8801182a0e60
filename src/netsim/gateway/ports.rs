//! External ports backed by real UDP sockets.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Weak},
};

use socket2::SockRef;

use super::{Bind, External, Inside};
use crate::netsim::translator::PortSpace;

/// Kernel buffer requested for each real socket and direction, in bytes: the usual default of 208 KiB loses
/// keyframes.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

pub(super) type Externals = HashMap<SocketAddr, (Arc<External>, Weak<Inside>)>;

/// Acquires ports by binding sockets for one inside socket.
pub(super) struct RealPorts<'a> {
    externals: &'a mut Externals,
    /// The owner, and the function that binds.
    taker: Option<(&'a Arc<Inside>, Bind)>,
}

impl<'a> RealPorts<'a> {
    /// Without an owner, ports can only be released.
    pub(super) fn new(
        externals: &'a mut Externals,
        taker: Option<(&'a Arc<Inside>, Bind)>,
    ) -> Self {
        Self { externals, taker }
    }
}

impl PortSpace for RealPorts<'_> {
    fn acquire(&mut self, address: SocketAddr) -> bool {
        let Some((inside, bind)) = self.taker else { return false };
        let opened = bind(address).and_then(|socket| open(address, socket, inside));
        let Ok(external) = opened else { return false };
        self.externals.insert(address, (Arc::clone(&external), Arc::downgrade(inside)));
        inside.add(external);
        true
    }

    fn release(&mut self, address: SocketAddr) {
        if let Some((_, owner)) = self.externals.remove(&address)
            && let Some(owner) = owner.upgrade()
        {
            owner.remove(address);
        }
    }
}

/// Converts a bound socket to one that the task of the inside socket reads.
pub(super) fn open(
    address: SocketAddr,
    socket: UdpSocket,
    inside: &Inside,
) -> io::Result<Arc<External>> {
    let options = SockRef::from(&socket);
    // The kernel may grant less, which is not an error.
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    let _context = inside.runtime.enter();
    Ok(Arc::new(External { address, socket: tokio::net::UdpSocket::from_std(socket)? }))
}
