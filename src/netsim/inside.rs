//! A socket behind a gateway, with the real sockets that receive its packets, the received datagrams, and
//! the waiting tasks.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard},
    task::{Wake, Waker},
};

use tokio::runtime::Handle;

/// Maximum bytes waiting to be read: as much as the kernel buffers for a socket of a peer.
const INBOX_BYTES: usize = 4 << 20;

/// Maximum number of waiting tasks; when it is exceeded, the first one is woken and polls again.
const MAX_WAKERS: usize = 32;

/// A real socket, visible from outside.
#[derive(Debug)]
pub(super) struct External {
    pub(super) address: SocketAddr,
    pub(super) socket: tokio::net::UdpSocket,
}

#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<(Vec<u8>, SocketAddr)>,
    bytes: usize,
}

/// The inside socket.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) address: SocketAddr,
    pub(super) runtime: Handle,
    /// The peer's own socket if packets are not received through it: it reserves the port, and is never
    /// read.
    _unread: Option<UdpSocket>,
    externals: Mutex<Arc<[Arc<External>]>>,
    inbox: Mutex<Inbox>,
    wakers: Mutex<Vec<Waker>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

impl Inside {
    pub(super) fn new(address: SocketAddr, runtime: Handle, unread: Option<UdpSocket>) -> Self {
        let externals = Mutex::new(Arc::new([]) as Arc<[_]>);
        Self {
            address,
            runtime,
            _unread: unread,
            externals,
            inbox: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    /// The current sockets to read.
    pub(super) fn externals(&self) -> Arc<[Arc<External>]> {
        Arc::clone(&locked(&self.externals))
    }

    /// Adds a socket to read, and wakes the waiting tasks so that they poll it, too.
    pub(super) fn add(&self, external: Arc<External>) {
        let mut externals = locked(&self.externals);
        *externals = externals.iter().cloned().chain([external]).collect();
        drop(externals);
        self.wake_all();
    }

    /// Removes a socket whose mapping has ended.
    pub(super) fn remove(&self, address: SocketAddr) {
        let mut externals = locked(&self.externals);
        *externals = externals.iter().filter(|e| e.address != address).cloned().collect();
    }

    /// Queues a datagram; false if the inbox is full.
    pub(super) fn deliver(&self, datagram: Vec<u8>, from: SocketAddr) -> bool {
        let mut inbox = locked(&self.inbox);
        if inbox.bytes + datagram.len() > INBOX_BYTES {
            return false;
        }
        inbox.bytes += datagram.len();
        inbox.datagrams.push_back((datagram, from));
        drop(inbox);
        self.wake_all();
        true
    }

    /// Takes the next queued datagram.
    pub(super) fn take(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut inbox = locked(&self.inbox);
        let (datagram, from) = inbox.datagrams.pop_front()?;
        inbox.bytes -= datagram.len();
        Some((datagram, from))
    }

    /// Registers a task that waits for a datagram.
    pub(super) fn wait(&self, waker: &Waker) {
        let mut wakers = locked(&self.wakers);
        if wakers.iter().any(|known| known.will_wake(waker)) {
            return;
        }
        let crowded_out = (wakers.len() >= MAX_WAKERS).then(|| wakers.remove(0));
        wakers.push(waker.clone());
        drop(wakers);
        if let Some(waker) = crowded_out {
            waker.wake();
        }
    }

    /// Unregisters a task that no longer waits.
    pub(super) fn wait_no_more(&self, waker: &Waker) {
        locked(&self.wakers).retain(|known| !known.will_wake(waker));
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *locked(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A real socket is readable: all waiting tasks poll.
impl Wake for Inside {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
