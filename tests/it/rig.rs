//! A dev server whose signing key the test knows.

use std::net::SocketAddr;

use orion_peer::{
    auth::{
        jws::{Key, SigningKeys},
        jwt::{Policy, Verifier, mint},
        secret::Secret,
        unix_now,
    },
    proto::claims::Claims,
    server::{RunningServer, Server, ServerConfig},
};
use tokio::net::TcpListener;

pub struct Rig {
    pub server: RunningServer,
    pub keys: SigningKeys,
}

/// Starts a dev server with a known key; `change` adjusts its configuration.
pub async fn rig(change: impl FnOnce(&mut ServerConfig)) -> Rig {
    let keys = SigningKeys::new(vec![Key::hs256("k", &Secret::random()).unwrap()]).unwrap();
    let mut config = ServerConfig::dev().await.unwrap();
    config.verifier = Verifier::new(keys.clone(), Policy::default());
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Rig { server: Server::start(config, listener).await.unwrap(), keys }
}

impl Rig {
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn token(&self, device: &str) -> String {
        self.token_until(device, "demo", unix_now() + 200)
    }

    pub fn token_until(&self, device: &str, pair: &str, exp: u64) -> String {
        let claims = Claims {
            sub: device.into(),
            pair_id: pair.into(),
            exp,
            iat: Some(exp - 200),
            nbf: None,
            iss: None,
            aud: None,
            jti: None,
        };
        mint(&self.keys, &claims).unwrap()
    }
}
