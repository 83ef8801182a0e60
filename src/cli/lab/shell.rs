//! `orion-peer lab shell`: a shell, or any command, behind a NAT made by the kernel, with a server of
//! ours on the other side. Nothing else can be reached from there, and nothing of it is left behind.

use std::{ffi::OsString, process::ExitStatus};

use tokio::process::{Child, Command};

use crate::{
    cli::{failure::Failure, network::LinkArgs, output::Output},
    netns::{self, Lab, LabPlan, LabServer, Location, NetworkPlan, OTHER_SERVER, SERVER},
    types::Stage,
};

/// Variables that would simulate a second network inside.
const NOT_INSIDE: [&str; 7] = [
    "ORION_NAT",
    "ORION_LOSS",
    "ORION_DELAY",
    "ORION_JITTER",
    "ORION_RATE",
    "ORION_SEED",
    "ORION_TOKEN_URL",
];

/// Flags of `lab shell`.
#[derive(Debug, clap::Args)]
pub struct ShellArgs {
    #[command(flatten)]
    network: LinkArgs,
    /// Do not start a signaling, token and STUN/TURN server on the other side
    #[arg(long)]
    no_serve: bool,
    /// Command to run instead of a shell, after `--`; its exit code is handed through
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command, and ends with its exit code.
///
/// # Errors
/// Exit code 2 for a NAT that the kernel cannot be, 1 when there can be no namespaces here.
pub async fn run(args: ShellArgs, output: Output) -> Result<(), Failure> {
    let network = args.network.one()?.map(|networks| networks.plan()).unwrap_or_default();
    let plan = LabPlan { a: network.0, seed: network.1, ..LabPlan::default() };
    let name = plan.a.profile.to_string();
    let failed = |error: netns::NetnsError| super::kernel_failure(&error);
    let serve = !args.no_serve;
    let started = tokio::task::spawn_blocking(move || {
        let lab = Lab::start(&plan)?;
        let server = if serve { Some(lab.serve()?) } else { None };
        Ok((lab, server, plan.a))
    });
    let (lab, server, network) = started.await.map_err(|error| lost(&error))?.map_err(failed)?;
    announce(&lab, server.as_ref(), &network, output);
    let mut command = command(&lab, &args.command, &name)?;
    for name in NOT_INSIDE {
        command.env_remove(name);
    }
    command.envs(server.iter().flat_map(LabServer::variables));
    let signals = Signals::new()?;
    let child = command.spawn().map_err(|error| {
        Failure::new(Stage::Config, format!("cannot start the command: {error}"), "check its name")
    })?;
    let status = signals.wait(child).await?;
    drop(server);
    lab.stop();
    std::process::exit(code(status))
}

fn lost(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Stage::Config, format!("the lab was lost: {error}"), "")
}

fn announce(lab: &Lab, server: Option<&LabServer>, network: &NetworkPlan, output: Output) {
    let link = if network.link.is_clear() {
        String::new()
    } else {
        format!(" over a link with {}", network.link)
    };
    output.line(format!(
        "behind `{}`{link}, address {}; your own network cannot be reached from here",
        network.profile,
        lab.address(Location::A)
    ));
    if let Some(server) = server {
        output.line(format!(
            "serve runs at {}, with STUN/TURN at {SERVER}:3478 (UDP and TCP)",
            server.signal_url()
        ));
        output.line(
            "ORION_SIGNAL and ORION_ACCESS_TOKEN are set: `orion-peer recv`, `send` and `doctor` \
             find it; devices `phone` and `mac`",
        );
    } else {
        output.line(format!("servers would be at {SERVER} and {OTHER_SERVER}: nothing runs there"));
    }
}

/// The user's command, or a shell whose prompt names the NAT.
fn command(lab: &Lab, words: &[OsString], name: &str) -> Result<Command, Failure> {
    if let Some((program, words)) = words.split_first() {
        let mut command = lab.command_as_user(Location::A, &program.to_string_lossy());
        command.args(words);
        return Ok(command.into());
    }
    let shell = std::env::var("SHELL").ok().filter(|shell| !shell.is_empty());
    let shell = shell.unwrap_or_else(|| "/bin/sh".to_owned());
    let mut command = lab.command_as_user(Location::A, &shell);
    if shell.ends_with("/bash") {
        // What bash reads at its start would set the prompt anew.
        let file = lab.file("bashrc");
        let text = format!("[ -r ~/.bashrc ] && . ~/.bashrc\nPS1='({name}) '\"$PS1\"\n");
        std::fs::write(&file, text).map_err(|error| lost(&error))?;
        command.arg("--rcfile").arg(file);
    } else {
        command.env("PS1", format!("({name}) $ ")).env("PROMPT", format!("({name}) %% "));
    }
    Ok(command.into())
}

/// The signals that this process does not end by while the command runs. Ctrl-C is the command's own
/// affair, for it is in the same terminal; what asks this process to go is passed on.
#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 4]);

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| lost(&error));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn wait(self, mut child: Child) -> Result<ExitStatus, Failure> {
        use rustix::process::{Pid, Signal, kill_process};
        let [mut interrupt, mut quit, mut terminate, mut hangup] = self.0;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pass_on = |signal| {
            if let Some(pid) = pid {
                // It has ended already: then there is nobody to tell.
                let _ = kill_process(pid, signal);
            }
        };
        loop {
            tokio::select! {
                status = child.wait() => return status.map_err(|error| lost(&error)),
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                _ = terminate.recv() => pass_on(Signal::TERM),
                _ = hangup.recv() => pass_on(Signal::HUP),
            }
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn wait(self, mut child: Child) -> Result<ExitStatus, Failure> {
        child.wait().await.map_err(|error| lost(&error))
    }
}

/// As a shell tells it: 128 and the number of the signal that ended it.
fn code(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128 + signal;
    }
    status.code().unwrap_or(1)
}
