//! Cells by Linux: NATs of netfilter in network namespaces, a lab for each cell. The two peers are
//! processes of this program, `bench --respond` behind B and `bench` behind A, and what the latter
//! writes is what was measured.

use std::{path::PathBuf, process::Stdio, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    plan::{CellPlan, Effort, PICTURE, PING_INTERVAL, Transports},
    run::{self, Layer, Measurement},
    schema::LayerName,
};
use crate::{
    nat::{self, NamedNetwork},
    netns::{self, KernelError, Lab, LabPlan, LabServer, Network, Place},
    proto::token::IceServer,
    report::{bench::schema::BenchResult, schema::FailureRecord},
    types::Stage,
};

/// Transports that the server in a lab speaks.
pub const TRANSPORTS: Transports = Transports { udp: true, tcp: true, tls: false };

/// NATs and links made by the kernel.
pub struct InKernel {
    orion_peer: Option<PathBuf>,
}

impl InKernel {
    /// Finds out whether labs can be had on this machine, and whether their NATs are what they are meant
    /// to be. Takes about 3 s.
    ///
    /// # Errors
    /// They cannot: no Linux, no namespaces allowed, a program missing; or they are not.
    pub async fn start(orion_peer: Option<PathBuf>) -> Result<Arc<Self>, FailureRecord> {
        let plan = LabPlan { orion_peer: orion_peer.clone(), ..LabPlan::default() };
        blocking(move || Lab::start(&plan).map(Lab::stop)).await?;
        let lab = Self { orion_peer };
        tokio::try_join!(lab.check_behaviour(), lab.check_ice())?;
        Ok(Arc::new(lab))
    }

    /// An RFC 5780 probe behind each of two NATs.
    async fn check_behaviour(&self) -> Result<(), FailureRecord> {
        let named = |name| nat::network(name).map_err(|error| unlike(name, &error.to_string()));
        let (a, b) = (named(CHECKED.0)?, named(CHECKED.1)?);
        let (lab, server) = self.build(network(&a), network(&b)).await?;
        let found =
            tokio::try_join!(probe(&lab, &server, Place::A), probe(&lab, &server, Place::B));
        drop(server);
        let _ = tokio::task::spawn_blocking(move || lab.stop()).await;
        let (at_a, at_b) = found?;
        for (wanted, found) in [(CHECKED.0, at_a), (CHECKED.1, at_b)] {
            if found.profile.as_deref() != Some(wanted) {
                let name = found.profile.unwrap_or_else(|| "no NAT with a name".into());
                return Err(unlike(wanted, &format!("an RFC 5780 probe found {name}")));
            }
        }
        Ok(())
    }

    /// Two peers behind NATs of the first kind: a conntrack entry that an early packet leaves moves the
    /// mapping, which no probe sees.
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

    /// A lab with its server; not one of the cells.
    async fn build(&self, a: Network, b: Network) -> Result<(Lab, LabServer), FailureRecord> {
        let plan = LabPlan { a, b, orion_peer: self.orion_peer.clone(), ..LabPlan::default() };
        blocking(move || {
            let lab = Lab::start(&plan)?;
            let server = lab.serve()?;
            Ok((lab, server))
        })
        .await
    }
}

/// NATs that every lab is checked with before it is used.
const CHECKED: (&str, &str) = ("port", "sym");

fn unlike(name: &str, found: &str) -> FailureRecord {
    failure(
        "lab-unlike-profile",
        &format!("the lab does not do what `{name}` says: {found}"),
        "use the simulated lab (without --kernel); a firewall or module of this kernel may interfere: \
         compare `orion-peer lab shell --nat port -- orion-peer doctor`",
    )
}

/// What `doctor` says of the NAT in front of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Probed {
    profile: Option<String>,
}

/// Asks the lab's server by RFC 5780 from a place of the lab.
async fn probe(lab: &Lab, server: &LabServer, place: Place) -> Result<Probed, FailureRecord> {
    #[derive(Deserialize)]
    struct Report {
        nat: Probed,
    }
    let mut command = orion_peer(lab, server, place);
    command.args([
        "doctor",
        "--no-signal",
        "--ice-server",
        &format!("stun:{}:3478", netns::SERVER),
    ]);
    let output = command.output().await.map_err(|error| not_run(&error))?;
    serde_json::from_slice::<Report>(&output.stdout).map(|report| report.nat).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("no RFC 5780 probe in the lab: {error}: {}", said.trim());
        failure("no-probe", &message, "run with -v for the details")
    })
}

#[async_trait]
impl Layer for InKernel {
    fn name(&self) -> LayerName {
        LayerName::Kernel
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
        // Its end takes a moment, in which this thread has better to do.
        let _ = tokio::task::spawn_blocking(move || lab.stop()).await;
        measured
    }
}

fn network(network: &NamedNetwork) -> Network {
    Network { profile: network.profile.clone(), link: network.link, ..Network::default() }
}

/// Runs what waits for the kernel on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, FailureRecord> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| {
            failure("no-kernel-lab", &format!("no lab: {error}"), &error.remedy())
        }),
        Err(error) => Err(failure("no-kernel-lab", &format!("the lab was lost: {error}"), "")),
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

/// `orion-peer` in a place of the lab, with the lab's server in its environment.
fn orion_peer(lab: &Lab, server: &LabServer, place: Place) -> Command {
    let mut command = Command::from(lab.own_in(place));
    command
        .arg("--json")
        .envs(server.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a token answer tells of ICE servers.
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
    let mut command = orion_peer(lab, server, Place::Internet);
    command.args(["token", "fetch", "--device", "phone"]);
    let output = command.output().await.map_err(|error| not_run(&error))?;
    let fetched: Fetched = serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("the lab's token API did not answer: {error}: {}", said.trim());
        failure("no-token", &message, "run with -v for the details")
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

/// The bench between the two peers.
async fn bench(
    lab: &Lab,
    server: &LabServer,
    servers: &[IceServer],
    effort: &Effort,
) -> Result<Measurement, FailureRecord> {
    let mut responder = orion_peer(lab, server, Place::B);
    responder.args(["bench", "--respond", "--device", "mac"]);
    use_servers(&mut responder, servers);
    let mut responder = responder.spawn().map_err(|error| not_run(&error))?;
    let lines = joined(&mut responder).await?;
    // What it says must be read, or it waits.
    let reading = tokio::spawn(read_on(lines));
    let mut command = orion_peer(lab, server, Place::A);
    command.args(["bench", "--device", "phone", "--warmup", "0", "--min-success", "0%"]);
    command.args(["--connections", &effort.connections.to_string()]);
    command.args(["--keyframes", &effort.connections.to_string()]);
    command.args(["--pings", &(effort.pings * effort.connections).to_string()]);
    command.args(["--ping-interval", &format!("{}ms", PING_INTERVAL.as_millis())]);
    command.args(["--source", &format!("pattern:{}x{}", PICTURE.0, PICTURE.1)]);
    command.args(["--timeout", &format!("{}ms", effort.timeout.as_millis())]);
    use_servers(&mut command, servers);
    let output = command.output().await.map_err(|error| not_run(&error));
    // It has nothing more to say.
    let _ = responder.kill().await;
    reading.abort();
    let output = output?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let result = stdout.lines().find_map(|line| serde_json::from_str::<BenchResult>(line).ok());
    result.map(Measurement::from).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("the bench in the lab ended without a result: {}", said.trim());
        failure("no-result", &message, "run with -v for the details")
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

/// Waits until the responder is in the room; the rest of what it says.
async fn joined(responder: &mut Child) -> Result<Lines, FailureRecord> {
    let Some(stdout) = responder.stdout.take() else {
        return Err(failure("not-started", "the responder says nothing", ""));
    };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("\"joined\"") {
            return Ok(lines);
        }
    }
    let mut said = String::new();
    if let Some(stderr) = &mut responder.stderr {
        // What can be read of it is enough.
        let _ = stderr.read_to_string(&mut said).await;
    }
    let message = format!("the responder in the lab ended: {}", said.trim());
    Err(failure("no-responder", &message, "run with -v for the details"))
}

async fn read_on(mut lines: Lines) {
    while let Ok(Some(_)) = lines.next_line().await {}
}
