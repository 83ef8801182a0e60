//! The bus on Redis (7 or later) or Valkey: scripts for leases, pub/sub between nodes.
//!
//! Keys are `{prefix}pair:{ID}:ios` and `…:mac`, with the pair's id in braces so that both are in the
//! same slot of a cluster; channels are `{prefix}node:{ID}`.

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisError, TlsCertificates, Value,
    aio::{MultiplexedConnection, PubSubStream},
    from_redis_value,
};
use tokio::time::timeout;

use super::{
    CLAIM_SLACK, Claimed, Command, Envelope, LEASE, LOST_AFTER, Lease, NodeId, Own, Renewed, Reply,
    envelope::role_word,
};
use crate::{
    auth::secret::Secret,
    pairs::Role,
    types::{ConnId, PairId},
};

/// Timeout for TCP, TLS and login.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

const CLAIM: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/claim.lua"));
const RENEW: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/renew.lua"));
const RELEASE: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/release.lua"));
const SEND_ECHO: &str = include_str!("lua/echo.lua");

/// Prefix of an echo; an envelope starts with a brace.
const ECHO: &str = "echo ";

/// The server, key prefix and login of the bus. The URL may contain a password, so `Debug` omits
/// it.
#[derive(Clone)]
pub struct BusConfig {
    client: Arc<Client>,
    prefix: String,
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, prefix) = (self.address(), &self.prefix);
        f.debug_struct("BusConfig")
            .field("address", &address)
            .field("prefix", prefix)
            .finish_non_exhaustive()
    }
}

/// An unusable bus. No variant contains a password.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The URL or the certificates are not valid.
    #[error("{0}")]
    Config(String),
    /// Redis is unreachable or rejected the login.
    #[error("cannot connect to the bus at {address}: {cause}")]
    Connect {
        /// Host and port.
        address: String,
        /// The error of the driver.
        cause: String,
        /// Whether the login failed.
        login: bool,
    },
}

impl BusConfig {
    /// A bus at `url` (`redis://`, `rediss://`, `valkey://`, `valkeys://`), with keys and channels
    /// that start with `prefix`. `password` takes precedence over the one in the URL. `ca` (PEM)
    /// replaces the public certificate authorities as the trusted ones.
    ///
    /// # Errors
    /// [`BusError::Config`]
    pub fn new(
        url: &str,
        password: Option<&Secret>,
        prefix: &str,
        ca: Option<&[u8]>,
    ) -> Result<Self, BusError> {
        let config = |error: &RedisError| BusError::Config(cause(error));
        let scheme = url.split("://").next().unwrap_or_default();
        if !["redis", "rediss", "valkey", "valkeys"].contains(&scheme) {
            let what = "the URL must start with redis:// or rediss://";
            return Err(BusError::Config(what.to_owned()));
        }
        let mut info = url.into_connection_info().map_err(|error| config(&error))?;
        if let Some(password) = password {
            let text = String::from_utf8_lossy(password.expose()).into_owned();
            let settings = info.redis_settings().clone().set_password(text);
            info = info.set_redis_settings(settings);
        }
        crate::signaling::client::install_crypto();
        let client = match ca {
            Some(pem) => {
                let root_cert = Some(pem.to_vec());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            None => Client::open(info),
        };
        let client = Arc::new(client.map_err(|error| config(&error))?);
        Ok(Self { client, prefix: prefix.to_owned() })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    fn channels(&self) -> String {
        format!("{}node:", self.prefix)
    }

    fn failed(&self, error: &RedisError) -> BusError {
        let login = error.kind() == ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
        BusError::Connect { address: self.address(), cause: cause(error), login }
    }

    fn late(&self) -> BusError {
        let cause = format!("no answer for {} s", CONNECT_WITHIN.as_secs());
        BusError::Connect { address: self.address(), cause, login: false }
    }

    /// Connects, and subscribes to the channel of `node`.
    pub(super) async fn connect(&self, node: &NodeId) -> Result<Connected, BusError> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(LOST_AFTER));
        let connecting = async {
            let client = &self.client;
            let mut commands =
                client.get_multiplexed_async_connection_with_config(&settings).await?;
            let mut scripts = Vec::new();
            for script in [CLAIM, RENEW, RELEASE, SEND_ECHO] {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script);
                scripts.push(load.query_async::<String>(&mut commands).await?);
            }
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(format!("{}{node}", self.channels())).await?;
            let [claim, renew, release, echo] =
                <[String; 4]>::try_from(scripts).expect("four scripts were loaded");
            let wire = Wire {
                node: node.clone(),
                prefix: self.prefix.clone(),
                channels: self.channels(),
                claim,
                renew,
                release,
                echo,
            };
            Ok(Connected { commands, messages: subscription.into_on_message(), wire })
        };
        match timeout(2 * CONNECT_WITHIN, connecting).await {
            Ok(connected) => connected.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.late()),
        }
    }
}

/// Checks that the bus is reachable and accepts the login.
///
/// # Errors
/// [`BusError::Connect`]
pub async fn check(config: &BusConfig) -> Result<(), BusError> {
    config.connect(&NodeId::random()).await.map(drop)
}

/// The cause of an error, without the driver's text when that may quote the command.
fn cause(error: &RedisError) -> String {
    match (error.code(), error.kind()) {
        (Some(code), _) => format!("Redis answered {code}"),
        (None, ErrorKind::Io) => error.to_string(),
        (None, kind) => format!("{kind:?}"),
    }
}

/// The two connections of a node: one for commands, one for the subscription.
pub(super) struct Connected {
    pub commands: MultiplexedConnection,
    pub messages: PubSubStream,
    pub wire: Wire,
}

/// A message received over the subscription.
#[derive(Debug)]
pub(super) enum Heard {
    Echo(u64),
    Envelope(Envelope),
    /// A message of another program or another version.
    Unknown,
}

impl Heard {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let echo = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix(ECHO));
        if let Some(number) = echo {
            return number.parse().map_or(Self::Unknown, Self::Echo);
        }
        Envelope::parse(bytes).map_or(Self::Unknown, Self::Envelope)
    }
}

/// Encodes commands and decodes replies.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    node: NodeId,
    prefix: String,
    channels: String,
    claim: String,
    renew: String,
    release: String,
    echo: String,
}

impl Wire {
    /// Executes commands in order, and returns each with its reply.
    pub(super) async fn run(
        self,
        mut connection: MultiplexedConnection,
        commands: Vec<Command>,
    ) -> Result<Vec<(Command, Reply)>, String> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in &commands {
            pipeline.add_command(self.write(command));
        }
        let answers: Vec<Value> =
            pipeline.query_async(&mut connection).await.map_err(|error| cause(&error))?;
        let read = |(command, answer)| {
            let reply = read(&command, answer).ok_or("a reply is not valid")?;
            Ok((command, reply))
        };
        commands.into_iter().zip(answers).map(read).collect()
    }

    fn write(&self, command: &Command) -> Cmd {
        match command {
            Command::Claim { pair, role, device, conn, since } => {
                let mut script = self.script(&self.claim, pair, *role, conn);
                script.arg(device.as_str()).arg(*since).arg(CLAIM_SLACK.as_micros() as u64);
                script
            }
            Command::Renew { pair, role, conn, peer, sent, .. } => {
                let mut script = self.script(&self.renew, pair, *role, conn);
                script.arg(peer.as_ref().map_or("", ConnId::as_str)).arg(*sent);
                script
            }
            Command::Release { pair, role, conn, reason } => {
                let mut script = self.script(&self.release, pair, *role, conn);
                let reason = serde_json::to_value(reason).unwrap_or_default();
                script.arg(reason.as_str().unwrap_or("closed"));
                script
            }
            Command::Publish { node, envelope } => {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(self.channel(node)).arg(envelope.to_bytes());
                publish
            }
            Command::Echo(number) => {
                let mut script = redis::cmd("EVALSHA");
                let echo = format!("{ECHO}{number}");
                script.arg(&self.echo).arg(0).arg(self.channel(&self.node)).arg(echo);
                script
            }
        }
    }

    fn channel(&self, node: &NodeId) -> String {
        format!("{}{node}", self.channels)
    }

    fn script(&self, script: &str, pair: &PairId, role: Role, conn: &ConnId) -> Cmd {
        let key = |role| format!("{}pair:{{{pair}}}:{}", self.prefix, role_word(role));
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(script)
            .arg(2)
            .arg(key(role))
            .arg(key(role.other()))
            .arg(&self.node.0)
            .arg(&self.channels)
            .arg(pair.as_str())
            .arg(role_word(role))
            .arg(conn.as_str())
            .arg(LEASE.as_millis() as u64);
        command
    }
}

fn read(command: &Command, answer: Value) -> Option<Reply> {
    Some(match command {
        Command::Claim { .. } => {
            let (epoch, peer) = first_and_lease(answer)?;
            if epoch == "late" {
                return Some(Reply::Late);
            }
            Reply::Claimed(Claimed { epoch: epoch.parse().ok()?, peer })
        }
        Command::Renew { .. } => {
            let (own, peer) = first_and_lease(answer)?;
            let own = match own.as_str() {
                "kept" => Own::Kept,
                "taken" => Own::Taken,
                _ => Own::Absent,
            };
            Reply::Renewed(Renewed { own, peer })
        }
        Command::Release { .. } => Reply::Done,
        Command::Echo(_) => {
            let (seconds, micros): (u64, u64) = taken(answer)?;
            Reply::Time(seconds * 1_000_000 + micros)
        }
        Command::Publish { .. } => Reply::Published(taken(answer)?),
    })
}

fn taken<T: FromRedisValue>(answer: Value) -> Option<T> {
    from_redis_value(answer).ok()
}

/// Splits the array of a script into its first word and the lease, if there is one.
fn first_and_lease(answer: Value) -> Option<(String, Option<Lease>)> {
    let words: Vec<String> = taken(answer)?;
    match <[String; 5]>::try_from(words) {
        Ok([first, node, conn, device, epoch]) => {
            let (node, epoch) = (NodeId(node), epoch.parse().ok()?);
            let lease = Lease { node, conn: conn.into(), device: device.into(), epoch };
            Some((first, Some(lease)))
        }
        Err(words) => words.into_iter().next().map(|first| (first, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_passwords_are_not_shown() {
        for bad in ["http://127.0.0.1", "redis", "redis://", "redis://0.0.0.0", "redis://h/x"] {
            assert!(BusConfig::new(bad, None, "", None).is_err(), "{bad}");
        }
        let config = BusConfig::new("rediss://me:hush@127.0.0.1:1/2", None, "o:", None).unwrap();
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        assert_eq!(config.address(), "127.0.0.1:1");
        let password = Secret::from("hush2");
        let config = BusConfig::new("redis://me:hush@h", Some(&password), "", None).unwrap();
        let info = config.client.get_connection_info().redis_settings();
        assert_eq!((info.username(), info.password()), (Some("me"), Some("hush2")));
        assert!(
            BusConfig::new("rediss://h", None, "", Some(b"-----BEGIN CERTIFICATE-----")).is_err()
        );
    }

    #[test]
    fn messages_that_are_not_envelopes_are_ignored() {
        assert!(matches!(Heard::parse(b"echo 17"), Heard::Echo(17)));
        for junk in [&b""[..], b"echo", b"echo x", b"{}", b"\xff", b"null\n"] {
            assert!(matches!(Heard::parse(junk), Heard::Unknown), "{junk:?}");
        }
    }
}
