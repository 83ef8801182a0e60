//! The command `lab`: runs two real peers behind pairs of networks ([`matrix`]), or changes the network
//! during a call ([`timeline`]). The networks are simulated in this process ([`netsim`](crate::netsim)) or
//! are network namespaces of the kernel ([`netns`](crate::netns)).

pub mod matrix;
pub mod timeline;
