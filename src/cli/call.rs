//! The call configuration of `send`, `recv` and `bench`, from validated flags.

use std::sync::Arc;

use super::{
    connect::{AddressFamily, ConnectConfig, IcePolicy, TokenSource},
    failure::Failure,
};
use crate::{
    peer::{self, PeerConfig, PeerRole, local_network::LocalNetwork},
    session::CallConfig,
    signaling::{
        client::token_client::TokenClient,
        client::{ClientConfig, StaticToken, TokenProvider},
    },
    types::is_loopback,
};

/// Converts validated flags to the configuration of a call.
///
/// # Errors
/// The URL of the token API is not usable, or there is no usable local address.
pub fn call_config(config: &ConnectConfig, role: PeerRole) -> Result<CallConfig, Failure> {
    let tokens: Arc<dyn TokenProvider> = match &config.token {
        TokenSource::Fixed(token) => Arc::new(
            StaticToken::new(token.expose())
                .map_err(|error| Failure::new(error.stage(), error.to_string(), error.remedy()))?,
        ),
        TokenSource::Api { url, access_token } => Arc::new(
            TokenClient::new(
                url.as_str(),
                access_token.expose(),
                config.device.clone(),
                config.pair.clone(),
            )
            .and_then(|client| client.trusting(&config.trust))
            .map_err(|error| Failure::usage(error.to_string(), error.remedy()))?,
        ),
    };
    let loopback = is_loopback(&config.signal);
    let (v4, v6) = (
        config.network.contains(&AddressFamily::Udp4),
        config.network.contains(&AddressFamily::Udp6),
    );
    let network = LocalNetwork { interface: config.interface.clone(), v4, v6, loopback };
    let addresses = network.addresses();
    if addresses.is_empty() {
        let interface = config.interface.as_deref().unwrap_or("any interface");
        return Err(Failure::usage(
            format!("no usable address on {interface}"),
            "see `ip address` for interface names; --network selects udp4 or udp6",
        ));
    }
    let peer = PeerConfig {
        ice_servers: config.ice_servers.clone(),
        trust: config.trust.clone(),
        ice_policy: match config.ice_policy {
            IcePolicy::All => peer::IcePolicy::All,
            IcePolicy::Relay => peer::IcePolicy::Relay,
        },
        candidates: config.candidates.clone(),
        addresses,
        network: Some(network),
        ..PeerConfig::new(role)
    };
    let signaling = ClientConfig {
        trust: config.trust.clone(),
        ..ClientConfig::new(config.signal.as_str(), tokens)
    };
    Ok(CallConfig::new(signaling, peer))
}
