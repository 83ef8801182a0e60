//! `orion-peer lab wire`: the link of a kernel lab, which starts it for itself; so its words are for
//! programs, in nanoseconds and bits a second.

use std::time::Duration;

use crate::{
    cli::failure::Failure,
    kernel::wire::{self, WireConfig},
    nat::Link,
};

/// Words of `lab wire`.
#[derive(Debug, clap::Args)]
pub struct WireArgs {
    /// Interface towards the peer
    inner: String,
    /// Interface towards the internet
    outer: String,
    /// Share of packets lost, 0 to 1
    loss: f64,
    /// Packets lost in a row
    loss_burst: u32,
    /// Delay in nanoseconds
    delay: u64,
    /// Jitter in nanoseconds
    jitter: u64,
    /// Bits a second; 0 is no limit
    rate: u64,
    /// Of what is lost
    seed: u64,
}

/// Runs the link until it is killed.
///
/// # Errors
/// The interfaces are not there, or packet sockets cannot be had.
pub fn run(args: WireArgs) -> Result<(), Failure> {
    let link = Link {
        loss: args.loss,
        loss_burst: args.loss_burst,
        delay: Duration::from_nanos(args.delay),
        jitter: Duration::from_nanos(args.jitter),
        rate: (args.rate > 0).then_some(args.rate),
    };
    let config = WireConfig { inner: args.inner, outer: args.outer, link, seed: args.seed };
    // A line that does not get out shows in the lab, which waits for it.
    let ready = || println!("ready");
    wire::run(&config, ready).map_err(|error| super::kernel_failure(&error))
}
