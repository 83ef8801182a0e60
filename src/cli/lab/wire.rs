//! `orion-peer lab wire`: the link of a kernel lab, started internally; its arguments are machine-readable, in
//! nanoseconds and bits per second.

use std::time::Duration;

use crate::{
    cli::failure::Failure,
    nat::{LinkSettings, Queue},
    netns::wire::{self, WireConfig},
};

/// Arguments of `lab wire`.
#[derive(Debug, clap::Args)]
pub struct WireArgs {
    /// Interface toward the peer
    inner: String,
    /// Interface toward the internet
    outer: String,
    /// Random seed for packet loss
    seed: u64,
    /// Packet loss (0 to 1), loss burst length, delay and jitter in nanoseconds, bits per second (0: unlimited), queue
    /// size in bytes (0: that of a router); lines on standard input with the same fields change the link
    #[arg(num_args = 6)]
    link: Vec<String>,
}

/// Runs the link until the process is killed or its standard input ends.
///
/// # Errors
/// The interfaces do not exist, or packet sockets are not available.
pub fn run(args: WireArgs) -> Result<(), Failure> {
    let words: Vec<&str> = args.link.iter().map(String::as_str).collect();
    let initial = link(&words).ok_or_else(|| {
        let message = format!("`{}` is not a valid link", args.link.join(" "));
        Failure::usage(message, "do not run this command directly: the kernel lab starts it")
    })?;
    let config =
        WireConfig { inner: args.inner, outer: args.outer, link: initial, seed: args.seed };
    // The lab waits for this line, so it detects a failure to write it.
    let ready = || println!("ready");
    let changes = std::io::stdin().lines().map_while(Result::ok);
    let changes = changes.filter_map(|line| link(&line.split(' ').collect::<Vec<_>>()));
    // Standard input ends when the lab does, and the link must not outlive the lab.
    let changes = changes.chain(std::iter::from_fn(|| std::process::exit(0)));
    wire::run(&config, ready, changes).map_err(|error| super::kernel_failure(&error))
}

fn link(words: &[&str]) -> Option<LinkSettings> {
    let [loss, loss_burst, delay, jitter, rate, queue] = words else { return None };
    let (rate, queue): (u64, u64) = (rate.parse().ok()?, queue.parse().ok()?);
    Some(LinkSettings {
        loss: loss.parse().ok()?,
        loss_burst: loss_burst.parse().ok()?,
        delay: Duration::from_nanos(delay.parse().ok()?),
        jitter: Duration::from_nanos(jitter.parse().ok()?),
        rate: (rate > 0).then_some(rate),
        queue: (queue > 0).then_some(Queue::Bytes(queue)),
    })
}
