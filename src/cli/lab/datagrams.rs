//! `orion-peer lab inject` and `lab capture`: an attacker on the path of a kernel lab, which starts them for
//! itself.

use std::io::Write;

use crate::{
    cli::failure::Failure,
    netns::{Datagram, wire},
};

/// Words of `lab inject`.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// Interface towards the peer
    interface: String,
    /// The peer's address on it
    mac: String,
}

/// Words of `lab capture`.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Interface towards the peer
    interface: String,
}

/// Puts the datagrams of standard input on the interface, until it ends; lines that are none are left out.
///
/// # Errors
/// The interface is not there, or packet sockets cannot be had.
pub fn inject(args: &InjectArgs) -> Result<(), Failure> {
    let mac = mac(&args.mac).ok_or_else(|| {
        let message = format!("`{}` is not a valid MAC address", args.mac);
        Failure::usage(message, "the kernel lab starts this for itself")
    })?;
    let lines = std::io::stdin().lines().map_while(Result::ok);
    let frames = lines.filter_map(|line| line.parse::<Datagram>().ok()?.frame(mac).ok());
    wire::inject(&args.interface, ready, frames).map_err(|error| super::kernel_failure(&error))
}

/// Writes the datagrams that pass to standard output, until that is closed.
///
/// # Errors
/// The interface is not there, or packet sockets cannot be had.
pub fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    let take = |frame: &[u8]| match Datagram::from_frame(frame) {
        Some(datagram) => writeln!(stdout, "{datagram}").is_ok(),
        None => true,
    };
    wire::capture(&args.interface, ready, take).map_err(|error| super::kernel_failure(&error))
}

/// A line that does not get out shows in the lab, which waits for it.
fn ready() {
    println!("ready");
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}
