//! `orion-peer lab shell`: a shell or a command behind a kernel NAT, with our server outside the NAT. Nothing else
//! is reachable from the shell, and the lab leaves nothing behind.

use std::{ffi::OsString, process::ExitStatus};

use tokio::process::{Child, Command};

use crate::{
    cli::{failure::Failure, network::NetsimArgs, output::Output},
    netns::{self, Lab, LabPlan, LabServer, Location, NetworkPlan, OTHER_SERVER, SERVER},
    types::Stage,
};

/// Variables that would simulate a second network inside the shell or select another token API.
const REMOVED_VARIABLES: [&str; 7] = [
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
    /// Do not start a signaling, token and STUN/TURN server outside the NAT
    #[arg(long)]
    no_serve: bool,
    /// Command to run instead of a shell, after `--`; its exit code is passed through
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    network: NetsimArgs,
}

/// Runs the command and exits with its exit code.
///
/// # Errors
/// Exit code 2 for a NAT that the kernel does not support, 1 if namespaces are not available.
pub async fn run(args: ShellArgs, output: Output) -> Result<(), Failure> {
    let network =
        args.network.for_single_peer()?.map(|networks| networks.plan()).unwrap_or_default();
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
    for name in REMOVED_VARIABLES {
        command.env_remove(name);
    }
    command.envs(server.iter().flat_map(LabServer::variables));
    let signals = Signals::new()?;
    let child = command.spawn().map_err(|error| {
        Failure::new(
            Stage::Config,
            format!("cannot start the command: {error}"),
            "check the name of the command",
        )
    })?;
    let status = signals.wait(child).await?;
    drop(server);
    lab.stop();
    std::process::exit(code(status))
}

fn lost(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Stage::Config, format!("the lab failed: {error}"), "run with -v for details")
}

fn announce(lab: &Lab, server: Option<&LabServer>, network: &NetworkPlan, output: Output) {
    let link = if network.link.is_clear() {
        String::new()
    } else {
        format!(" over a link with {}", network.link)
    };
    output.line(format!(
        "behind `{}`{link}, address {}; your own network is not reachable from here",
        network.profile,
        lab.address(Location::A)
    ));
    if let Some(server) = server {
        output.line(format!(
            "server: {}, with STUN/TURN at {SERVER}:3478 (UDP and TCP)",
            server.signal_url()
        ));
        output.line(
            "ORION_SIGNAL and ORION_ACCESS_TOKEN are set, so `orion-peer recv`, `send` and `doctor` \
             use this server; devices: `phone` and `mac`",
        );
    } else {
        output.line(format!(
            "no server was started; {SERVER} and {OTHER_SERVER} are free for your own servers"
        ));
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
        // The files bash reads at startup would overwrite the prompt.
        let file = lab.file("bashrc");
        let text = format!("[ -r ~/.bashrc ] && . ~/.bashrc\nPS1='({name}) '\"$PS1\"\n");
        std::fs::write(&file, text).map_err(|error| lost(&error))?;
        command.arg("--rcfile").arg(file);
    } else {
        command.env("PS1", format!("({name}) $ ")).env("PROMPT", format!("({name}) %% "));
    }
    Ok(command.into())
}

/// Signals that do not terminate this process while the command runs. The command receives Ctrl-C itself,
/// because it is in the same terminal; termination requests are forwarded.
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
        let forward = |signal| {
            if let Some(pid) = pid {
                // Fails only if the process has already ended.
                let _ = kill_process(pid, signal);
            }
        };
        loop {
            tokio::select! {
                status = child.wait() => return status.map_err(|error| lost(&error)),
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                _ = terminate.recv() => forward(Signal::TERM),
                _ = hangup.recv() => forward(Signal::HUP),
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

/// The exit code as a shell reports it: 128 plus the number of the terminating signal.
fn code(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128 + signal;
    }
    status.code().unwrap_or(1)
}
