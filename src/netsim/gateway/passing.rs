//! The way of a packet through a gateway, and through the carrier it may be behind.

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

/// How often mappings are looked through for expired ones, to close their sockets.
const SWEEP: Duration = Duration::from_secs(1);

/// What is done when a packet has come through the link.
#[derive(Debug)]
pub(super) enum Event {
    /// It leaves, even if its sender is gone by then.
    Out { inside: Arc<Inside>, exit: Exit, from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// It meets the NATs.
    In { at: SocketAddr, from: SocketAddr, data: Vec<u8> },
    /// Somebody waited for this time.
    Wake(tokio::sync::oneshot::Sender<()>),
}

/// Where packets leave a gateway.
#[derive(Debug, Clone)]
pub(super) enum Exit {
    Socket(Arc<External>),
    Carrier(Arc<Gateway>),
}

/// What became of a packet that was sent.
pub(in crate::netsim) enum Sent {
    /// It is on its way, or was dropped as on any network.
    Done,
    /// The real socket has no room for it now: wait for that and send it there.
    NoRoom(Arc<External>),
}

impl Gateway {
    /// A packet of an inside end; `from` is its address, or that of the NAT it has passed.
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

    /// A packet that came to an external address. Gives who gets it when it is there at once.
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

    /// A packet that has come through the link meets the NATs.
    fn admit(&self, at: SocketAddr, from: SocketAddr, data: &[u8]) -> Option<Arc<Inside>> {
        let now = self.now();
        let mut core = self.core();
        let address = match core.stack.inbound(now, at, from) {
            Ok(address) => address,
            Err(refused) => {
                tracing::trace!(%from, %at, "not let in: {refused}");
                core.stats.down.filtered += 1;
                return None;
            }
        };
        core.stats.down.passed += 1;
        hand_over(core, address, from, data)
    }

    /// Has something done at that time; false when it cannot be.
    fn later(&self, due: Duration, event: Event) -> bool {
        let timer = self.timer.get_or_init(|| {
            let me = self.me.clone();
            let act = move |event| {
                if let Some(gateway) = me.upgrade() {
                    gateway.act(event);
                }
            };
            Timer::start(act)
                .inspect_err(|error| tracing::error!("no thread for the simulated link: {error}"))
                .ok()
        });
        timer.as_ref().is_some_and(|timer| timer.push(self.begun + due, event))
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

    /// When these bytes of a TCP connection come out of the link.
    pub(in crate::netsim) fn send_stream(&self, direction: Direction, bytes: usize) -> Duration {
        let now = self.now();
        let mut core = self.core();
        match direction {
            Direction::Up => core.up.send_stream(now, bytes),
            Direction::Down => core.down.send_stream(now, bytes),
        }
    }

    /// Waits until that time of [`Gateway::send_stream`].
    pub(in crate::netsim) async fn sleep_until(&self, due: Duration) {
        let (woken, waiting) = tokio::sync::oneshot::channel();
        if due <= self.now() {
            return;
        }
        if self.later(due, Event::Wake(woken)) {
            let _ = waiting.await;
        } else {
            tokio::time::sleep_until((self.begun + due).into()).await;
        }
    }
}

/// Gives who has that inside address; a router behind this gateway looks further, by its own NATs.
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
        // A fresh Tokio socket does not know yet that it can send, and drops: ask the system.
        Exit::Socket(external) => match SockRef::from(&external.socket).send_to(data, &to.into()) {
            Ok(_) => Ok(Sent::Done),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Sent::NoRoom(Arc::clone(external)))
            }
            Err(error) => Err(error),
        },
    }
}
