//! What has to hold of a whole time line before it is played.

use std::{collections::HashSet, time::Duration};

use super::{
    event::{Action, Target, one_nat},
    file::Timeline,
};
use crate::{
    netns::Place, proto::claims::MAX_LIFETIME_S, server::SHORTEST_TTL,
    session::sender::INTERVAL_RANGE,
};

/// Longest time line.
const LONGEST: Duration = Duration::from_hours(24);

/// Least MTUs of IPv4 that make sense (RFC 791 §3.1) and of IPv6 (RFC 8200 §5), and that of Ethernet.
const LEAST_MTU: u16 = 576;
const LEAST_MTU6: u16 = 1280;
const ETHERNET: u16 = 1500;

impl Timeline {
    /// What is wrong with it, in words; `needed` is when its last event must be over.
    pub(super) fn check(&self, needed: Duration) -> Result<(), String> {
        let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
        if self.events.is_empty() {
            return Err("its time line has no event".into());
        }
        if self.interval < INTERVAL_RANGE.0 {
            return Err(format!("interval: at least {}", seconds(INTERVAL_RANGE.0)));
        }
        if self.duration > LONGEST {
            return Err("a time line is at most a day long".into());
        }
        if self.duration < needed {
            let (given, needed) = (seconds(self.duration), seconds(needed));
            return Err(format!(
                "duration: {given} is over before the last event must be, which is {needed}"
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
        let mut down: HashSet<Target> = HashSet::new();
        for place in [Place::A, Place::B] {
            self.signals_over(place)?;
        }
        let narrow = self.homes.iter().filter_map(|home| home.mtu.map(|mtu| (mtu, home.ip)));
        for (mtu, ip) in narrow {
            let least = if ip.has_v6() { LEAST_MTU6 } else { LEAST_MTU };
            if mtu < least || mtu > ETHERNET {
                return Err(format!("mtu: {least} to {ETHERNET}"));
            }
        }
        let mut profiles = self.homes.clone().map(|home| home.profile);
        for (index, event) in self.events.iter().enumerate() {
            let wrong = |problem: &str| Err(format!("`{event}`: {problem}"));
            if index > 0 && self.events[index - 1].at > event.at {
                return wrong("it comes after a later one: write them in order");
            }
            match &event.action {
                Action::Kill(target) | Action::Stop(target) => {
                    if down.contains(target) {
                        return wrong("it has ended already");
                    }
                    if event.lasting.is_none() {
                        down.insert(*target);
                    }
                }
                Action::Start(target) if !down.remove(target) => {
                    return wrong("it runs: it can start after `kill` or `stop`");
                }
                Action::Nat(place, _) if one_nat(&profiles[place.peer()]).is_none() => {
                    return wrong(
                        "one NAT takes the place of another, and what is there is not one NAT: write \
                         `move` for another network",
                    );
                }
                Action::Move(place, network) if event.lasting.is_none() => {
                    let home = &self.homes[place.peer()];
                    let network = network.as_deref().unwrap_or(home);
                    profiles[place.peer()] = network.profile.clone();
                }
                _ => {}
            }
        }
        Ok(())
    }
}
