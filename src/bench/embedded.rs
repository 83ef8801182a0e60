//! Peers that connect through a server in this process.

use std::sync::Arc;

use super::Slot;
use crate::{
    auth::login::DEV_TOKEN,
    pairs::Pair,
    peer::PeerConfig,
    server::RunningServer,
    session::CallConfig,
    signaling::{
        client::ClientConfig,
        client::token_client::{TokenClient, TokenError},
    },
    types::DeviceId,
};

/// The slot of a pair known to the server: its phone measures, its Mac is the remote peer. `peers` configures them in
/// that order.
///
/// # Errors
/// The HTTP client for the token API cannot be created.
pub fn slot(
    server: &RunningServer,
    pair: &Pair,
    peers: [PeerConfig; 2],
) -> Result<Slot, TokenError> {
    let call = |device: &DeviceId, peer: PeerConfig| -> Result<CallConfig, TokenError> {
        let url = server.token_url();
        let tokens = TokenClient::new(&url, DEV_TOKEN, device.clone(), Some(pair.id.clone()))?;
        Ok(CallConfig::new(ClientConfig::new(server.signal_url(), Arc::new(tokens)), peer))
    };
    let [measuring, local_peer] = peers;
    Ok(Slot {
        measuring: call(&pair.ios, measuring)?,
        local_peer: Some(call(&pair.mac, local_peer)?),
    })
}
