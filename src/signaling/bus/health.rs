//! Decides whether a node may trust its leases, from echoes that it sends to itself over the bus.

use std::time::{Duration, Instant};

use super::{Command, ECHO_EVERY, HUNG_AFTER, LOST_AFTER};

/// The result of a [`Health::tick`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// No change; contains an echo if one is due.
    Same(Option<Command>),
    /// The echo timed out: reconnect.
    Hung,
    /// No echo for so long that every socket must be closed. Reported once.
    Lost,
}

/// The state of the bus, as derived from the echoes.
#[derive(Debug)]
pub struct Health {
    connected: bool,
    up: bool,
    /// Whether leases are trusted: from the first echo until [`Judged::Lost`].
    trusted: bool,
    /// Send time of the latest echo that returned.
    confirmed: Instant,
    latest: u64,
    waiting: Option<(u64, Instant)>,
}

impl Health {
    /// The state of a node that is not connected yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            connected: false,
            up: false,
            trusted: false,
            confirmed: now,
            latest: 0,
            waiting: None,
        }
    }

    /// Whether sockets may join.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The node is connected and subscribed; returns the first echo to send.
    pub fn connected(&mut self, now: Instant) -> Command {
        self.connected = true;
        self.echo(now)
    }

    /// The connection was lost or abandoned.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.up = false;
        self.waiting = None;
    }

    fn echo(&mut self, now: Instant) -> Command {
        self.latest += 1;
        self.waiting = Some((self.latest, now));
        Command::Echo(self.latest)
    }

    /// An echo returned; true if it changed the state of the bus to up.
    pub fn echoed(&mut self, number: u64) -> bool {
        match self.waiting {
            Some((waiting, sent)) if waiting == number => {
                self.confirmed = sent;
                self.waiting = None;
                self.trusted = true;
                !std::mem::replace(&mut self.up, true)
            }
            _ => false,
        }
    }

    /// Checks the timers.
    pub fn tick(&mut self, now: Instant) -> Judged {
        let since = |then: Instant| now.saturating_duration_since(then);
        if self.trusted && since(self.confirmed) >= LOST_AFTER {
            self.trusted = false;
            self.up = false;
            return Judged::Lost;
        }
        match self.waiting {
            Some((_, sent)) if since(sent) >= HUNG_AFTER => Judged::Hung,
            None if self.connected && since(self.confirmed) >= ECHO_EVERY => {
                Judged::Same(Some(self.echo(now)))
            }
            _ => Judged::Same(None),
        }
    }

    /// Time since the latest echo that returned was sent.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_bus_is_hung_and_then_reported_lost_once() {
        let start = Instant::now();
        let mut health = Health::new(start);
        assert_eq!(health.connected(start), Command::Echo(1));
        assert!(!health.is_up());
        assert!(health.echoed(1) && health.is_up());
        assert_eq!(health.tick(start), Judged::Same(None));
        assert_eq!(health.tick(start + s(1)), Judged::Same(Some(Command::Echo(2))));
        assert!(!health.echoed(1), "an old echo does not count");
        assert_eq!(health.tick(start + s(3)), Judged::Same(None));
        assert_eq!(health.tick(start + s(4)), Judged::Hung);
        health.disconnected();
        assert!(!health.is_up());
        assert_eq!(health.tick(start + s(5)), Judged::Lost);
        assert_eq!(health.tick(start + s(60)), Judged::Same(None));
    }

    #[test]
    fn leases_survive_a_short_break_but_not_a_stopped_node() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.connected(start);
        health.echoed(1);
        health.disconnected();
        assert_eq!(health.connected(start + s(2)), Command::Echo(2));
        assert!(health.echoed(2), "it is up again");
        assert_eq!(health.tick(start + s(6)), Judged::Same(Some(Command::Echo(3))));
        health.echoed(3);
        assert_eq!(health.tick(start + s(60)), Judged::Lost, "a minute between two ticks");
        assert!(!health.is_up());
    }
}
