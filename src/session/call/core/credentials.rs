//! TURN credentials that expire during a call. An allocation expires with its credentials, because the crate
//! refreshes it with the original ones (`webrtc` 0.21.1, `driver.rs:1695`). A relayed call therefore restarts ICE
//! with newer credentials first.

use std::time::Duration;

use super::{CallCore, Now, Surroundings};
use crate::{peer::PeerRole, proto::token::IceServer, signaling::client::server_time};

/// Newer credentials are used when the old ones are valid for less than this, or for less than half their lifetime.
/// Signaling tokens, and the servers with them, are renewed about every four minutes.
const AHEAD: Duration = Duration::from_mins(10);

/// The TURN credentials that a connection gathered with. Times are seconds since 1970 on the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credentials {
    used: u64,
    expire: u64,
}

impl Credentials {
    /// `None` when no expiry is known.
    fn of(servers: &[IceServer], now: u64) -> Option<Self> {
        let expire = servers.iter().filter_map(IceServer::expires_at).min()?;
        Some(Self { used: now, expire })
    }

    /// Whether it is time to replace them with credentials that expire at `newer`.
    fn are_due(self, newer: u64, now: u64) -> bool {
        let life = self.expire.saturating_sub(self.used);
        let left = self.expire.saturating_sub(now);
        newer > self.expire && left < AHEAD.as_secs().min(life.div_ceil(2))
    }
}

impl CallCore {
    fn server_now(&self, now: Now) -> u64 {
        server_time(now.wall, self.clock_skew).as_secs()
    }

    /// The credentials that the next gathering uses.
    pub(super) fn credentials(&self, now: Now) -> Option<Credentials> {
        Credentials::of(&self.ice_servers(), self.server_now(now))
    }

    /// Newer ICE servers arrived. Both peers gathered at the same time, with credentials fetched shortly before, so
    /// the sender assumes that the receiver's credentials expire when its own do.
    pub(super) fn on_renewed(&mut self, now: Now, relayed: bool, here: &dyn Surroundings) {
        let newer = self.credentials(now).map(|newer| newer.expire);
        let Some(connection) = self.connection.as_ref().filter(|one| one.is_established()) else {
            return;
        };
        let server_now = self.server_now(now);
        let due = connection
            .credentials
            .zip(newer)
            .is_some_and(|(old, newer)| old.are_due(newer, server_now));
        let restarts = self.role == PeerRole::Sender && !connection.is_restarting();
        if due && restarts && relayed && !self.is_doubtful() {
            self.restart(now, "the TURN credentials of this call expire soon".into(), here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(username: Option<&str>) -> IceServer {
        IceServer {
            urls: vec!["turn:192.0.2.1".into()],
            username: username.map(Into::into),
            credential: username.map(|_| "secret".into()),
        }
    }

    #[test]
    fn the_earliest_expiry_counts() {
        let servers = [
            server(None),
            server(Some("phone")),
            server(Some("1700007200:phone")),
            server(Some("1700000600:phone")),
        ];
        let found = Credentials::of(&servers, 1_700_000_000);
        assert_eq!(found, Some(Credentials { used: 1_700_000_000, expire: 1_700_000_600 }));
        assert_eq!(Credentials::of(&servers[..2], 1_700_000_000), None);
    }

    #[test]
    fn newer_credentials_are_used_shortly_before_the_old_ones_expire() {
        let due = |life: u64, passed: u64, gained: u64| {
            let old = Credentials { used: 1000, expire: 1000 + life };
            old.are_due(1000 + life + gained, 1000 + passed)
        };
        assert!(!due(7200, 6500, 6500), "11 minutes are left");
        assert!(due(7200, 6660, 6660), "9 minutes are left");
        assert!(!due(7200, 6660, 0), "but these expire at the same time");
        assert!(due(7200, 8000, 8000), "too late is better than never");
        assert!(!due(12, 5, 5) && due(12, 7, 7), "short-lived ones at half of their lifetime");
        assert!(!due(0, 0, 0) && !due(u64::MAX - 1000, 10, 0));
    }
}
