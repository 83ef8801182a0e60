//! What a lab is to be.

use std::path::PathBuf;

use crate::nat::{Link, Profile};

/// What lies between a peer and the internet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    /// NATs and firewalls.
    pub profile: Profile,
    /// The peer's own link, between it and the first of them.
    pub link: Link,
}

/// A lab to build.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabPlan {
    /// Of peer A.
    pub a: Network,
    /// Of peer B.
    pub b: Network,
    /// Both peers are behind the same machines, on two LANs that do not see each other; both have the
    /// same profile.
    pub shared: bool,
    /// Of what the links lose.
    pub seed: u64,
    /// Makes a user namespace even where it is not needed, as root.
    pub user_namespace: bool,
    /// `orion-peer` itself, for what runs inside; this program when it is not given.
    pub orion_peer: Option<PathBuf>,
}

/// Where in a lab a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// With peer A.
    A,
    /// With peer B.
    B,
    /// Among the servers, at 203.0.113.10 and .11.
    Internet,
}
