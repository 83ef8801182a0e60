//! Measures cells in this process: both peers behind simulated NATs and links, on any machine, without
//! privileges.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;

use super::{
    plan::{CellPlan, Effort, PICTURE, PING_INTERVAL},
    run::{LabBackend, Measurement},
    schema::BackendName,
    servers::{Servers, failure},
};
use crate::{
    bench::{self, BenchConfig, embedded, plan::BenchPlan},
    media::source::SourceSpec,
    nat::NamedNetwork,
    netsim::{Gateway, GatewayConfig},
    peer::{PeerConfig, PeerRole},
    proto::control::CONTROL_LIFE_TIME,
    report::schema::FailureRecord,
    session::capture::CaptureConfig,
};

/// Simulated NATs and links, and the servers shared by all cells.
pub struct SimulatedBackend {
    servers: Servers,
    cells: AtomicU64,
}

impl SimulatedBackend {
    /// Starts the servers.
    ///
    /// # Errors
    /// The servers cannot be started on this machine.
    pub async fn start() -> Result<Arc<Self>, FailureRecord> {
        Ok(Arc::new(Self { servers: Servers::start().await?, cells: AtomicU64::new(1) }))
    }

    /// Stops the servers once nothing else uses them.
    pub async fn close(self: Arc<Self>) {
        if let Some(last) = Arc::into_inner(self) {
            last.servers.shutdown().await;
        }
    }

    fn peer(
        &self,
        role: PeerRole,
        plan: &CellPlan,
        user: &str,
        gateway: Arc<Gateway>,
    ) -> PeerConfig {
        PeerConfig {
            ice_servers: self.servers.ice_servers(plan.turn, user),
            trust: self.servers.trust.clone(),
            gateway: Some(gateway),
            ..PeerConfig::new(role)
        }
    }
}

#[async_trait]
impl LabBackend for SimulatedBackend {
    fn name(&self) -> BackendName {
        BackendName::Simulated
    }

    async fn measure(
        &self,
        plan: &CellPlan,
        effort: &Effort,
    ) -> Result<Measurement, FailureRecord> {
        let number = self.cells.fetch_add(1, Ordering::Relaxed);
        let pair = self.servers.pair(number).await?;
        let a = gateway(&plan.a, plan.seed)?;
        // Complementing the seed makes the two links lose different packets.
        let b = if plan.same_nat { Arc::clone(&a) } else { gateway(&plan.b, !plan.seed)? };
        let peers = [
            self.peer(PeerRole::Sender, plan, pair.ios.as_str(), a),
            self.peer(PeerRole::Receiver, plan, pair.mac.as_str(), b),
        ];
        let slot = embedded::slot(&self.servers.signaling, &pair, peers)
            .map_err(|error| failure("no-token-client", &error.to_string(), &error.remedy()))?;
        let config = BenchConfig {
            plan: bench_plan(effort),
            slots: vec![slot],
            capture: CaptureConfig {
                source: SourceSpec::Pattern { width: PICTURE.0, height: PICTURE.1 },
                size: None,
                max_bytes: 100_000,
            },
            timeout: effort.timeout,
            // Statistics are not used here.
            stats_interval: effort.deadline(),
            one_way: false,
        };
        let measured = bench::run(config, std::future::pending(), &mut |_| {}).await;
        Ok(Measurement {
            connections: measured.connections,
            rtt: measured.rtt,
            keyframes: measured.keyframes,
            ended: measured.ended,
        })
    }
}

fn gateway(network: &NamedNetwork, seed: u64) -> Result<Arc<Gateway>, FailureRecord> {
    let config = GatewayConfig {
        profile: network.profile.clone(),
        link: network.link,
        seed,
        ..GatewayConfig::default()
    };
    Gateway::new(config).map_err(|error| failure("no-gateway", &error.to_string(), &error.remedy()))
}

/// What each connection of a cell does: its share of the pings, and one keyframe.
fn bench_plan(effort: &Effort) -> BenchPlan {
    BenchPlan {
        connections: effort.connections,
        warmup: 0,
        rate: None,
        pings: effort.pings * effort.connections,
        ping_interval: PING_INTERVAL,
        ping_bytes: 64,
        ping_life_time: Some(CONTROL_LIFE_TIME),
        keyframes: effort.connections,
        interval: std::time::Duration::from_secs(1),
        duration: None,
    }
}
