//! TURN credentials that expire in mid-call. An allocation ends with them, and the crate refreshes with those it was
//! made with (`webrtc` 0.21.1, `driver.rs:1695`): a relayed call restarts ICE with newer ones before that.

use std::time::{Duration, SystemTime};

use super::Worker;
use crate::{peer::PeerRole, proto::token::IceServer, signaling::client::server_time};

/// Newer credentials are used when the old ones are good for less than this, or for half of what they were.
/// Signaling tokens, and the servers with them, are renewed about every four minutes.
const AHEAD: Duration = Duration::from_mins(10);

/// The TURN credentials that a connection gathered with; seconds since 1970 on the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credentials {
    used: u64,
    expire: u64,
}

impl Credentials {
    /// None when nothing says that they expire.
    fn of(servers: &[IceServer], now: u64) -> Option<Self> {
        let expire = servers.iter().filter_map(IceServer::expires_at).min()?;
        Some(Self { used: now, expire })
    }

    /// Whether it is time to use credentials that last until `newer`.
    fn are_due(self, newer: u64, now: u64) -> bool {
        let life = self.expire.saturating_sub(self.used);
        let left = self.expire.saturating_sub(now);
        newer > self.expire && left < AHEAD.as_secs().min(life.div_ceil(2))
    }
}

impl Worker {
    fn server_now(&self) -> u64 {
        server_time(SystemTime::now(), self.clock_skew).as_secs()
    }

    /// What the next gathering uses.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        Credentials::of(&self.ice_servers(), self.server_now())
    }

    /// There are newer servers. Both peers gathered at the same time, with what they had fetched shortly before: the
    /// sender's credentials stand for the receiver's.
    pub(super) async fn on_renewed(&mut self) -> bool {
        let now = self.server_now();
        let newer = self.credentials().map(|newer| newer.expire);
        let Some(current) = self.current.as_ref().filter(|current| current.connected) else {
            return true;
        };
        let due =
            current.credentials.zip(newer).is_some_and(|(old, newer)| old.are_due(newer, now));
        let restarts = self.template.role == PeerRole::Sender && current.restarting.is_none();
        if !due || !restarts || self.is_doubtful() || !current.peer.may_be_relayed().await {
            return true;
        }
        self.restart("the TURN credentials of this call expire soon".into()).await
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
    fn the_first_that_expires_counts() {
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
    fn newer_credentials_are_used_ahead_of_time_and_not_sooner() {
        let due = |life: u64, passed: u64, gained: u64| {
            let old = Credentials { used: 1000, expire: 1000 + life };
            old.are_due(1000 + life + gained, 1000 + passed)
        };
        assert!(!due(7200, 6500, 6500), "11 minutes are left");
        assert!(due(7200, 6660, 6660), "9 minutes are left");
        assert!(!due(7200, 6660, 0), "but these are no better");
        assert!(due(7200, 8000, 8000), "too late is better than never");
        assert!(!due(12, 5, 5) && due(12, 7, 7), "short ones at half of their life");
        assert!(!due(0, 0, 0) && !due(u64::MAX - 1000, 10, 0));
    }
}
