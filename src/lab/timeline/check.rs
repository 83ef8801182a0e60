//! Validates a whole timeline before it is played.

use std::{collections::HashSet, time::Duration};

use super::{
    event::{EventAction, EventTarget, one_nat},
    file::Timeline,
};
use crate::{
    netns::Location, proto::claims::MAX_LIFETIME_S, server::SHORTEST_TTL,
    session::sender::INTERVAL_RANGE,
};

/// Maximum length of a timeline.
const MAX_LENGTH: Duration = Duration::from_hours(24);

/// Minimum MTU of IPv4 (576, RFC 791 §3.1) and of IPv6 (RFC 8200 §5), and the MTU of Ethernet.
const MIN_MTU: u16 = 576;
const MIN_MTU6: u16 = 1280;
const ETHERNET_MTU: u16 = 1500;

impl Timeline {
    /// Checks the timeline and describes the first problem. The last event must have recovered by `needed`.
    pub(super) fn check(&self, needed: Duration) -> Result<(), String> {
        let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
        if self.events.is_empty() {
            return Err("the timeline has no events".into());
        }
        if self.interval < INTERVAL_RANGE.0 {
            return Err(format!("interval: at least {}", seconds(INTERVAL_RANGE.0)));
        }
        if self.duration > MAX_LENGTH {
            return Err("a timeline is at most one day long".into());
        }
        if self.duration < needed {
            let (given, needed) = (seconds(self.duration), seconds(needed));
            return Err(format!(
                "duration: {given} is too short; the last event must have recovered by {needed}"
            ));
        }
        let server = self.server;
        if server.token_ttl.is_some_and(|ttl| ttl < SHORTEST_TTL || ttl.as_secs() > MAX_LIFETIME_S)
        {
            return Err("token-ttl: 10s to 5m".into());
        }
        if server.turn_ttl.is_some_and(|ttl| ttl < SHORTEST_TTL) {
            return Err("turn-ttl: at least 10s".into());
        }
        let mut down: HashSet<EventTarget> = HashSet::new();
        for location in [Location::A, Location::B] {
            self.signals_over(location)?;
        }
        let narrow = self.homes.iter().filter_map(|home| home.mtu.map(|mtu| (mtu, home.ip)));
        for (mtu, ip) in narrow {
            let least = if ip.has_v6() { MIN_MTU6 } else { MIN_MTU };
            if mtu < least || mtu > ETHERNET_MTU {
                return Err(format!("mtu: {least} to {ETHERNET_MTU}"));
            }
        }
        let mut profiles = self.homes.clone().map(|home| home.profile);
        for (index, event) in self.events.iter().enumerate() {
            let wrong = |problem: &str| Err(format!("`{event}`: {problem}"));
            if index > 0 && self.events[index - 1].at > event.at {
                return wrong("it follows a later event: write events in order of time");
            }
            match &event.action {
                EventAction::Kill(target) | EventAction::Stop(target) => {
                    if down.contains(target) {
                        return wrong("it is not running");
                    }
                    if event.lasting.is_none() {
                        down.insert(*target);
                    }
                }
                EventAction::Start(target) if !down.remove(target) => {
                    return wrong(
                        "it is already running: `start` requires an earlier `kill` or `stop`",
                    );
                }
                EventAction::Nat(location, _) if one_nat(&profiles[location.peer()]).is_none() => {
                    return wrong(
                        "`nat` replaces a single NAT, and the current network is not one: use \
                         `move` to change the network",
                    );
                }
                EventAction::Move(location, network) if event.lasting.is_none() => {
                    let home = &self.homes[location.peer()];
                    let network = network.as_deref().unwrap_or(home);
                    profiles[location.peer()] = network.profile.clone();
                }
                _ => {}
            }
        }
        Ok(())
    }
}
