//! Whether a node may trust its leases: by echoes it sends to itself through the bus.

use std::time::{Duration, Instant};

use super::{Command, ECHO_EVERY, HUNG_AFTER, LOST_AFTER};

/// What a look at the clock found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// All is well, or known to be bad; an echo may be due.
    Same(Option<Command>),
    /// No echo comes back: the connection is to be made anew.
    Hung,
    /// There was none for so long that every socket must go. Said once.
    Lost,
}

/// Echoes sent and returned.
#[derive(Debug)]
pub struct Health {
    connected: bool,
    up: bool,
    /// Whether sockets may live: from the first echo until [`Judged::Lost`].
    trusted: bool,
    /// When the latest echo that returned was sent.
    confirmed: Instant,
    latest: u64,
    waiting: Option<(u64, Instant)>,
}

impl Health {
    /// Of a node that is not connected yet.
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

    /// Connected and subscribed; the first echo is to be sent.
    pub fn connected(&mut self, now: Instant) -> Command {
        self.connected = true;
        self.echo(now)
    }

    /// The connection is lost, or was given up.
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

    /// An echo returned; true when the bus is up by it, and was not.
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

    /// A look at the clock.
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

    /// How long ago the bus last answered.
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
    fn a_bus_that_is_silent_is_given_up_and_then_lost_once() {
        let start = Instant::now();
        let mut health = Health::new(start);
        assert_eq!(health.connected(start), Command::Echo(1));
        assert!(!health.is_up());
        assert!(health.echoed(1) && health.is_up());
        assert_eq!(health.tick(start), Judged::Same(None));
        assert_eq!(health.tick(start + s(1)), Judged::Same(Some(Command::Echo(2))));
        assert!(!health.echoed(1), "an old one is no answer");
        assert_eq!(health.tick(start + s(3)), Judged::Same(None));
        assert_eq!(health.tick(start + s(4)), Judged::Hung);
        health.disconnected();
        assert!(!health.is_up());
        assert_eq!(health.tick(start + s(5)), Judged::Lost);
        assert_eq!(health.tick(start + s(60)), Judged::Same(None));
    }

    #[test]
    fn a_short_break_loses_nothing_and_a_stopped_node_everything() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.connected(start);
        health.echoed(1);
        health.disconnected();
        assert_eq!(health.connected(start + s(2)), Command::Echo(2));
        assert!(health.echoed(2), "it is up again");
        assert_eq!(health.tick(start + s(6)), Judged::Same(Some(Command::Echo(3))));
        health.echoed(3);
        assert_eq!(health.tick(start + s(60)), Judged::Lost, "a minute between two looks");
        assert!(!health.is_up());
    }
}
