//! Measures cells on Linux: netfilter NATs in network namespaces, one lab per cell. The two peers are
//! processes of this program, `bench --respond` behind B and `bench` behind A; the result that `bench`
//! prints is the measurement.

use std::{path::PathBuf, process::Stdio, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    plan::{CellPlan, Effort, PICTURE, PING_INTERVAL, Transports},
    run::{self, LabBackend, Measurement},
    schema::BackendName,
};
use crate::{
    nat::{self, NamedNetwork},
    netns::{self, Lab, LabPlan, LabServer, Location, NetnsError, NetworkPlan},
    proto::token::IceServer,
    report::{bench::schema::BenchResult, schema::FailureRecord},
    types::Stage,
};

/// TURN transports of the server in a lab.
pub const TRANSPORTS: Transports = Transports { udp: true, tcp: true, tls: false };

/// NATs and links provided by the kernel.
pub struct KernelBackend {
    orion_peer: Option<PathBuf>,
}

impl KernelBackend {
    /// Checks that this machine can run labs and that their NATs behave as specified. Takes about 3 s.
    ///
    /// # Errors
    /// Labs cannot run here (not Linux, namespaces not permitted, a program missing), or a NAT misbehaves.
    pub async fn start(orion_peer: Option<PathBuf>) -> Result<Arc<Self>, FailureRecord> {
        let plan = LabPlan { orion_peer: orion_peer.clone(), ..LabPlan::default() };
        blocking(move || Lab::start(&plan).map(Lab::stop)).await?;
        let lab = Self { orion_peer };
        tokio::try_join!(lab.check_behaviour(), lab.check_ice())?;
        Ok(Arc::new(lab))
    }

    /// Runs an RFC 5780 probe behind each of two NATs.
    async fn check_behaviour(&self) -> Result<(), FailureRecord> {
        let named = |name| nat::network(name).map_err(|error| unlike(name, &error.to_string()));
        let (a, b) = (named(CHECKED.0)?, named(CHECKED.1)?);
        let (lab, server) = self.build(network(&a), network(&b)).await?;
        let found =
            tokio::try_join!(probe(&lab, &server, Location::A), probe(&lab, &server, Location::B));
        drop(server);
        let _ = tokio::task::spawn_blocking(move || lab.stop()).await;
        let (at_a, at_b) = found?;
        for (wanted, found) in [(CHECKED.0, at_a), (CHECKED.1, at_b)] {
            if found.profile.as_deref() != Some(wanted) {
                let name = found.profile.unwrap_or_else(|| "an unnamed NAT type".into());
                return Err(unlike(wanted, &format!("an RFC 5780 probe found {name}")));
            }
        }
        Ok(())
    }

    /// Connects two peers behind NATs of the first checked profile. An early packet can leave a conntrack
    /// entry that changes the mapping, which no probe detects.
    async fn check_ice(&self) -> Result<(), FailureRecord> {
        let name = CHECKED.0;
        let named = || nat::network(name).map_err(|error| unlike(name, &error.to_string()));
        let plan = CellPlan::new(named()?, named()?, TRANSPORTS, 1);
        let effort = Effort { connections: 1, pings: 1, ..Effort::default() };
        let cell = run::measure(self, &plan, &effort).await;
        match cell.reason {
            _ if cell.measured == plan.expected => Ok(()),
            Some(reason) if cell.by_type.is_empty() => Err(reason),
            _ => Err(unlike(name, &format!("two peers behind it connect as {}", cell.measured))),
        }
    }

    /// Builds a lab and its server for the checks, not for a cell.
    async fn build(
        &self,
        a: NetworkPlan,
        b: NetworkPlan,
    ) -> Result<(Lab, LabServer), FailureRecord> {
        let plan = LabPlan { a, b, orion_peer: self.orion_peer.clone(), ..LabPlan::default() };
        blocking(move || {
            let lab = Lab::start(&plan)?;
            let server = lab.serve()?;
            Ok((lab, server))
        })
        .await
    }
}

/// NAT profiles that are verified before any lab is used.
const CHECKED: (&str, &str) = ("port", "sym");

fn unlike(name: &str, found: &str) -> FailureRecord {
    failure(
        "lab-unlike-profile",
        &format!("the lab does not behave like `{name}`: {found}"),
        "use the simulated lab (without --kernel); a firewall or kernel module may interfere: \
         compare with `orion-peer lab shell --nat port -- orion-peer doctor`",
    )
}

/// The NAT in front of a peer according to `doctor`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Probed {
    profile: Option<String>,
}

/// Runs the RFC 5780 probe against the lab's server from `location`.
async fn probe(lab: &Lab, server: &LabServer, location: Location) -> Result<Probed, FailureRecord> {
    #[derive(Deserialize)]
    struct Report {
        nat: Probed,
    }
    let mut command = orion_peer(lab, server, location);
    command.args([
        "doctor",
        "--no-signal",
        "--ice-server",
        &format!("stun:{}:3478", netns::SERVER),
    ]);
    let output = command.output().await.map_err(|error| not_run(&error))?;
    serde_json::from_slice::<Report>(&output.stdout).map(|report| report.nat).map_err(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("the RFC 5780 probe in the lab failed: {error}: {}", stderr.trim());
        failure("no-probe", &message, "run with -v for details")
    })
}

#[async_trait]
impl LabBackend for KernelBackend {
    fn name(&self) -> BackendName {
        BackendName::Kernel
    }

    async fn measure(
        &self,
        plan: &CellPlan,
        effort: &Effort,
    ) -> Result<Measurement, FailureRecord> {
        let lab_plan = LabPlan {
            a: network(&plan.a),
            b: network(&plan.b),
            shared: plan.same_nat,
            seed: plan.seed,
            orion_peer: self.orion_peer.clone(),
            ..LabPlan::default()
        };
        let built = blocking(move || {
            let lab = Lab::start(&lab_plan)?;
            let server = lab.serve()?;
            Ok((lab, server))
        });
        let (lab, server) = built.await?;
        let servers = ice_servers(&lab, &server, plan.turn).await?;
        let measured = bench(&lab, &server, &servers, effort).await;
        drop(server);
        // Tearing the lab down takes a moment; do it off this thread.
        let _ = tokio::task::spawn_blocking(move || lab.stop()).await;
        measured
    }
}

fn network(network: &NamedNetwork) -> NetworkPlan {
    NetworkPlan { profile: network.profile.clone(), link: network.link, ..NetworkPlan::default() }
}

/// Runs work that waits for the kernel on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetnsError> + Send + 'static,
) -> Result<T, FailureRecord> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| {
            failure("no-kernel-lab", &format!("cannot create the lab: {error}"), &error.remedy())
        }),
        Err(error) => Err(failure("no-kernel-lab", &format!("the lab failed: {error}"), "")),
    }
}

fn failure(code: &str, message: &str, remedy: &str) -> FailureRecord {
    FailureRecord {
        stage: Stage::Config,
        code: code.into(),
        message: message.into(),
        remedy: remedy.into(),
    }
}

/// An `orion-peer` command at a location in the lab, with the lab's server in its environment.
fn orion_peer(lab: &Lab, server: &LabServer, location: Location) -> Command {
    let mut command = Command::from(lab.isolated_orion_peer(location));
    command
        .arg("--json")
        .envs(server.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The ICE servers of a token response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fetched {
    ice_servers: Vec<IceServer>,
}

/// STUN, and TURN over these transports, with credentials.
async fn ice_servers(
    lab: &Lab,
    server: &LabServer,
    turn: Transports,
) -> Result<Vec<IceServer>, FailureRecord> {
    let mut command = orion_peer(lab, server, Location::Internet);
    command.args(["token", "fetch", "--device", "phone"]);
    let output = command.output().await.map_err(|error| not_run(&error))?;
    let fetched: Fetched = serde_json::from_slice(&output.stdout).map_err(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("the lab's token API did not answer: {error}: {}", stderr.trim());
        failure("no-token", &message, "run with -v for details")
    })?;
    let offered = |url: &String| {
        url.starts_with("stun")
            || (turn.udp && url.ends_with("transport=udp"))
            || (turn.tcp && url.starts_with("turn:") && url.ends_with("transport=tcp"))
            || (turn.tls && url.starts_with("turns:"))
    };
    let mut servers = fetched.ice_servers;
    for server in &mut servers {
        server.urls.retain(offered);
    }
    Ok(servers)
}

fn not_run(error: &std::io::Error) -> FailureRecord {
    failure("not-started", &format!("cannot start orion-peer in the lab: {error}"), "")
}

/// Runs the bench between the two peers.
async fn bench(
    lab: &Lab,
    server: &LabServer,
    servers: &[IceServer],
    effort: &Effort,
) -> Result<Measurement, FailureRecord> {
    let mut responder = orion_peer(lab, server, Location::B);
    responder.args(["bench", "--respond", "--device", "mac"]);
    use_servers(&mut responder, servers);
    let mut responder = responder.spawn().map_err(|error| not_run(&error))?;
    let lines = joined(&mut responder).await?;
    // The responder blocks unless its output is read.
    let reading = tokio::spawn(read_on(lines));
    let mut command = orion_peer(lab, server, Location::A);
    command.args(["bench", "--device", "phone", "--warmup", "0", "--min-success", "0%"]);
    command.args(["--connections", &effort.connections.to_string()]);
    command.args(["--keyframes", &effort.connections.to_string()]);
    command.args(["--pings", &(effort.pings * effort.connections).to_string()]);
    command.args(["--ping-interval", &format!("{}ms", PING_INTERVAL.as_millis())]);
    command.args(["--source", &format!("pattern:{}x{}", PICTURE.0, PICTURE.1)]);
    command.args(["--timeout", &format!("{}ms", effort.timeout.as_millis())]);
    use_servers(&mut command, servers);
    let output = command.output().await.map_err(|error| not_run(&error));
    // The responder has no result of its own.
    let _ = responder.kill().await;
    reading.abort();
    let output = output?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let result = stdout.lines().find_map(|line| serde_json::from_str::<BenchResult>(line).ok());
    result.map(Measurement::from).ok_or_else(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("the bench in the lab ended without a result: {}", stderr.trim());
        failure("no-result", &message, "run with -v for details")
    })
}

fn use_servers(command: &mut Command, servers: &[IceServer]) {
    for server in servers {
        for url in &server.urls {
            command.args(["--ice-server", url]);
        }
        if let (Some(username), Some(credential)) = (&server.username, &server.credential)
            && !server.urls.is_empty()
            && server.urls.iter().any(|url| url.starts_with("turn"))
        {
            command.env("ORION_TURN_USERNAME", username).env("ORION_TURN_CREDENTIAL", credential);
        }
    }
}

type Lines = tokio::io::Lines<BufReader<tokio::process::ChildStdout>>;

/// Waits until the responder has joined the room; returns the rest of its output.
async fn joined(responder: &mut Child) -> Result<Lines, FailureRecord> {
    let Some(stdout) = responder.stdout.take() else {
        return Err(failure("not-started", "the responder has no standard output", ""));
    };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("\"joined\"") {
            return Ok(lines);
        }
    }
    let mut stderr = String::new();
    if let Some(pipe) = &mut responder.stderr {
        // A partial message is sufficient.
        let _ = pipe.read_to_string(&mut stderr).await;
    }
    let message = format!("the responder in the lab ended: {}", stderr.trim());
    Err(failure("no-responder", &message, "run with -v for details"))
}

async fn read_on(mut lines: Lines) {
    while let Ok(Some(_)) = lines.next_line().await {}
}
