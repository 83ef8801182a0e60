//! `--require-type`: the connection type that every connection must have.

use std::{fmt, str::FromStr};

use serde_json::Value;

use crate::{
    report::{bench::schema::Connections, schema::GateResult},
    types::{ConnectionType, RelayTransport},
};

/// A required connection type. `relay` is met by a relay over any transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequiredType(pub ConnectionType);

/// A word that is not a connection type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown connection type `{0}`; expected host, srflx, relay, relay/udp, relay/tcp, relay/tls"
)]
pub struct UnknownRequiredType(pub String);

impl FromStr for RequiredType {
    type Err = UnknownRequiredType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|one| one.to_string() == text);
        known.ok_or_else(|| UnknownRequiredType(text.to_owned()))
    }
}

impl fmt::Display for RequiredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl RequiredType {
    /// All types that can be required.
    pub const ALL: [Self; 6] = [
        Self(ConnectionType::Host),
        Self(ConnectionType::Srflx),
        Self(ConnectionType::Relay(None)),
        Self(ConnectionType::Relay(Some(RelayTransport::Udp))),
        Self(ConnectionType::Relay(Some(RelayTransport::Tcp))),
        Self(ConnectionType::Relay(Some(RelayTransport::Tls))),
    ];

    /// Whether a type as in `byType` meets the requirement.
    fn met_by(self, kind: &str) -> bool {
        let any_relay = self.0 == ConnectionType::Relay(None) && kind.starts_with("relay/");
        any_relay || kind == self.to_string()
    }

    /// Met when at least one connection succeeded and every connection that did has
    /// the type.
    pub(super) fn check(self, connections: &Connections) -> GateResult {
        let found: Vec<_> = connections.by_type.iter().filter(|(_, count)| **count > 0).collect();
        let all: u64 = found.iter().map(|(_, count)| **count).sum();
        let met: u64 =
            found.iter().filter(|(kind, _)| self.met_by(kind)).map(|(_, count)| **count).sum();
        let types: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
        let peer_relay =
            matches!(self.0, ConnectionType::Relay(Some(_))) && types.contains(&"relay");
        let note = if all == 0 {
            Some("no connection succeeded".to_owned())
        } else if met == all {
            None
        } else {
            let why = "; `relay` is the peer's relay, whose transport is unknown";
            let why = if peer_relay { why } else { "" };
            Some(format!("{met} of {all} connections are {self}{why}"))
        };
        GateResult {
            name: "require-type".to_owned(),
            limit: self.to_string().into(),
            actual: if all == 0 { Value::Null } else { types.join(", ").into() },
            unit: "type".to_owned(),
            pass: all > 0 && met == all,
            note,
        }
    }
}
