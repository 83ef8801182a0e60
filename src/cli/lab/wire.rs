//! `orion-peer lab wire`: the link of a kernel lab, which starts it for itself; so its words are for
//! programs, in nanoseconds and bits a second.

use std::time::Duration;

use crate::{
    cli::failure::Failure,
    nat::{LinkSettings, Queue},
    netns::wire::{self, WireConfig},
};

/// Words of `lab wire`.
#[derive(Debug, clap::Args)]
pub struct WireArgs {
    /// Interface towards the peer
    inner: String,
    /// Interface towards the internet
    outer: String,
    /// Of what is lost
    seed: u64,
    /// Share of packets lost (0 to 1), how many in a row, delay and jitter in nanoseconds, bits a second
    /// (0 is no limit), bytes in the queue (0 is a router's); lines of standard input with the same words change it
    #[arg(num_args = 6)]
    link: Vec<String>,
}

/// Runs the link until it is killed, or its standard input ends.
///
/// # Errors
/// The interfaces are not there, or packet sockets cannot be had.
pub fn run(args: WireArgs) -> Result<(), Failure> {
    let words: Vec<&str> = args.link.iter().map(String::as_str).collect();
    let at_first = link(&words).ok_or_else(|| {
        let message = format!("`{}` is no link", args.link.join(" "));
        Failure::usage(message, "the kernel lab starts this for itself")
    })?;
    let config =
        WireConfig { inner: args.inner, outer: args.outer, link: at_first, seed: args.seed };
    // A line that does not get out shows in the lab, which waits for it.
    let ready = || println!("ready");
    let changes = std::io::stdin().lines().map_while(Result::ok);
    let changes = changes.filter_map(|line| link(&line.split(' ').collect::<Vec<_>>()));
    // Input ends with the lab; the link must not outlive it where nobody is left to kill it.
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
