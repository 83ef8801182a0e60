//! Forwards packets through a gateway, and through the carrier it may be behind.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, MutexGuard, Weak},
    time::Duration,
};

use socket2::SockRef;

use super::{Core, Direction, EveryPort, External, Gateway, Inside, RealPorts, Timer};
use crate::netsim::{
    link::Fate,
    stack::Routed,
    translator::{PortSpace, Refused},
};

/// Interval between sweeps, which remove expired mappings and close their sockets.
const SWEEP: Duration = Duration::from_secs(1);

/// What happens when a packet leaves the link.
#[derive(Debug)]
pub(super) enum Event {
    /// It is sent out, even if its sender has been closed in the meantime.
    Out { inside: Arc<Inside>, exit: Exit, from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// It is passed to the NATs.
    In { at: SocketAddr, from: SocketAddr, data: Vec<u8> },
    /// A task waiting for this time is woken.
    Wake(tokio::sync::oneshot::Sender<()>),
}

/// How packets leave a gateway.
#[derive(Debug, Clone)]
pub(super) enum Exit {
    Socket(Arc<External>),
    Carrier(Arc<Gateway>),
}

/// Result of sending a packet.
pub(in crate::netsim) enum Sent {
    /// The packet is in transit, or was dropped as on any network.
    Done,
    /// The real socket is not writable: wait until it is, then send through it.
    NoRoom(Arc<External>),
}

impl Gateway {
    /// Handles a packet from inside; `from` is its source, or that of the NAT it has passed.
    pub(in crate::netsim) fn send(
        &self,
        inside: &Arc<Inside>,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
    ) -> io::Result<Sent> {
        let now = self.now();
        let mut core = self.core();
        self.sweep(&mut core, now);
        let routed = match self.route(&mut core, now, inside, from, to) {
            Ok(routed) => routed,
            Err(refused) => {
                tracing::trace!(%from, %to, "not sent: {refused}");
                core.stats.up.filtered += 1;
                return Ok(Sent::Done);
            }
        };
        let source = match routed {
            Routed::Out(source) => source,
            Routed::Hairpin { inside: address, from } => {
                core.stats.hairpinned += 1;
                if let Some(inside) = hand_over(core, address, from, data) {
                    inside.deliver(data.to_vec(), from);
                }
                return Ok(Sent::Done);
            }
        };
        let Some(exit) = self.exit(&core, source) else { return Ok(Sent::Done) };
        match core.up.send(now, data.len()) {
            Fate::Lost => core.stats.up.lost += 1,
            Fate::Overflow => core.stats.up.overflowed += 1,
            Fate::Due(due) if due <= now => {
                core.stats.up.passed += 1;
                drop(core);
                return leave(inside, &exit, source, to, data);
            }
            Fate::Due(due) => {
                let (inside, data) = (Arc::clone(inside), data.to_vec());
                let event = Event::Out { inside, exit, from: source, to, data };
                if self.later(due, event) {
                    core.stats.up.passed += 1;
                } else {
                    core.stats.up.overflowed += 1;
                }
            }
        }
        Ok(Sent::Done)
    }

    fn route(
        &self,
        core: &mut Core,
        now: Duration,
        inside: &Arc<Inside>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Routed, Refused> {
        let Core { stack, externals, .. } = core;
        let mut real = RealPorts::new(externals, Some((inside, self.bind)));
        let ports: &mut dyn PortSpace =
            if self.carrier.is_some() { &mut EveryPort } else { &mut real };
        stack.outbound(now, from, to, ports)
    }

    fn exit(&self, core: &Core, source: SocketAddr) -> Option<Exit> {
        match &self.carrier {
            Some(carrier) => Some(Exit::Carrier(Arc::clone(carrier))),
            None => core.externals.get(&source).map(|(e, _)| Exit::Socket(Arc::clone(e))),
        }
    }

    fn sweep(&self, core: &mut Core, now: Duration) {
        if now < core.next_sweep {
            return;
        }
        core.next_sweep = now + SWEEP;
        let Core { stack, externals, .. } = core;
        match self.carrier {
            None => stack.expire(now, &mut RealPorts::new(externals, None)),
            Some(_) => stack.expire(now, &mut EveryPort),
        }
    }

    /// Handles a packet that arrived at an external address. Returns the receiver if it is delivered
    /// immediately.
    pub(in crate::netsim) fn receive(
        &self,
        at: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) -> Option<Arc<Inside>> {
        let now = self.now();
        let mut core = self.core();
        self.sweep(&mut core, now);
        match core.down.send(now, data.len()) {
            Fate::Lost => core.stats.down.lost += 1,
            Fate::Overflow => core.stats.down.overflowed += 1,
            Fate::Due(due) if due <= now => {
                drop(core);
                return self.admit(at, from, data);
            }
            Fate::Due(due) => {
                if !self.later(due, Event::In { at, from, data: data.to_vec() }) {
                    core.stats.down.overflowed += 1;
                }
            }
        }
        None
    }

    /// Passes a packet that has left the link to the NATs.
    fn admit(&self, at: SocketAddr, from: SocketAddr, data: &[u8]) -> Option<Arc<Inside>> {
        let now = self.now();
        let mut core = self.core();
        let address = match core.stack.inbound(now, at, from) {
            Ok(address) => address,
            Err(refused) => {
                tracing::trace!(%from, %at, "not admitted: {refused}");
                core.stats.down.filtered += 1;
                return None;
            }
        };
        core.stats.down.passed += 1;
        hand_over(core, address, from, data)
    }

    /// Schedules an event; false if that is not possible.
    fn later(&self, due: Duration, event: Event) -> bool {
        let timer = self.timer.get_or_init(|| {
            let me = self.me.clone();
            let act = move |event| {
                if let Some(gateway) = me.upgrade() {
                    gateway.act(event);
                }
            };
            Timer::start(act)
                .inspect_err(|error| {
                    tracing::error!("cannot start the thread of the simulated link: {error}");
                })
                .ok()
        });
        timer.as_ref().is_some_and(|timer| timer.push(self.started + due, event))
    }

    fn act(&self, event: Event) {
        match event {
            Event::Out { inside, exit, from, to, data } => {
                match leave(&inside, &exit, from, to, &data) {
                    Ok(Sent::Done) => {}
                    Ok(Sent::NoRoom(_)) => self.core().stats.up.overflowed += 1,
                    Err(error) => tracing::debug!(%from, %to, "not sent: {error}"),
                }
            }
            Event::In { at, from, data } => {
                if let Some(inside) = self.admit(at, from, &data) {
                    inside.deliver(data, from);
                }
            }
            Event::Wake(waiting) => {
                let _ = waiting.send(());
            }
        }
    }

    /// When these bytes of a TCP connection leave the link.
    pub(in crate::netsim) fn send_stream(&self, direction: Direction, bytes: usize) -> Duration {
        let now = self.now();
        let mut core = self.core();
        match direction {
            Direction::Up => core.up.send_stream(now, bytes),
            Direction::Down => core.down.send_stream(now, bytes),
        }
    }

    /// Waits until the time returned by [`Gateway::send_stream`].
    pub(in crate::netsim) async fn sleep_until(&self, due: Duration) {
        let (woken, waiting) = tokio::sync::oneshot::channel();
        if due <= self.now() {
            return;
        }
        if self.later(due, Event::Wake(woken)) {
            let _ = waiting.await;
        } else {
            tokio::time::sleep_until((self.started + due).into()).await;
        }
    }
}

/// Finds the owner of an internal address; a router behind this gateway continues with its own NATs.
fn hand_over(
    core: MutexGuard<'_, Core>,
    address: SocketAddr,
    from: SocketAddr,
    data: &[u8],
) -> Option<Arc<Inside>> {
    let router = core.behind.get(&address.ip()).and_then(Weak::upgrade);
    let inside = core.insides.get(&address).and_then(Weak::upgrade);
    drop(core);
    match router {
        Some(router) => router.receive(address, from, data),
        None => inside,
    }
}

fn leave(
    inside: &Arc<Inside>,
    exit: &Exit,
    from: SocketAddr,
    to: SocketAddr,
    data: &[u8],
) -> io::Result<Sent> {
    match exit {
        Exit::Carrier(carrier) => carrier.send(inside, from, to, data),
        // A new Tokio socket does not yet report that it is writable: use the system call directly.
        Exit::Socket(external) => match SockRef::from(&external.socket).send_to(data, &to.into()) {
            Ok(_) => Ok(Sent::Done),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Sent::NoRoom(Arc::clone(external)))
            }
            Err(error) => Err(error),
        },
    }
}
