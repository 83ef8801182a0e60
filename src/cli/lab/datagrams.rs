//! `orion-peer lab inject` and `lab capture`: an attacker on the path of a kernel lab, started internally by
//! the lab.

use std::io::Write;

use crate::{
    cli::failure::Failure,
    netns::{Datagram, wire},
};

/// Arguments of `lab inject`.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// Interface toward the peer
    interface: String,
    /// MAC address of the peer on that interface
    mac: String,
}

/// Arguments of `lab capture`.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Interface toward the peer
    interface: String,
}

/// Injects the datagrams read from standard input until it ends; lines that are not datagrams are ignored.
///
/// # Errors
/// The interface does not exist, or packet sockets are not available.
pub fn inject(args: &InjectArgs) -> Result<(), Failure> {
    let mac = mac(&args.mac).ok_or_else(|| {
        let message = format!("`{}` is not a valid MAC address", args.mac);
        Failure::usage(message, "do not run this command directly: the kernel lab starts it")
    })?;
    let lines = std::io::stdin().lines().map_while(Result::ok);
    let frames = lines.filter_map(|line| line.parse::<Datagram>().ok()?.frame(mac).ok());
    wire::inject(&args.interface, ready, frames).map_err(|error| super::kernel_failure(&error))
}

/// Writes passing datagrams to standard output until it is closed.
///
/// # Errors
/// The interface does not exist, or packet sockets are not available.
pub fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    let take = |frame: &[u8]| match Datagram::from_frame(frame) {
        Some(datagram) => writeln!(stdout, "{datagram}").is_ok(),
        None => true,
    };
    wire::capture(&args.interface, ready, take).map_err(|error| super::kernel_failure(&error))
}

/// Signals readiness: the lab waits for this line, so it detects a failure to write it.
fn ready() {
    println!("ready");
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}
