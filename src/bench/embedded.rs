//! Peers that meet at a server in this process.

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

/// The slot of a pair that the server knows: its phone measures, its Mac is the other side. `peers` are
/// theirs, in that order.
///
/// # Errors
/// No HTTP client can be made for the token API.
pub fn slot(
    server: &RunningServer,
    pair: &Pair,
    peers: [PeerConfig; 2],
) -> Result<Slot, TokenError> {
    let link = |device: &DeviceId, peer: PeerConfig| -> Result<CallConfig, TokenError> {
        let url = server.token_url();
        let tokens = TokenClient::new(&url, DEV_TOKEN, device.clone(), Some(pair.id.clone()))?;
        Ok(CallConfig::new(ClientConfig::new(server.signal_url(), Arc::new(tokens)), peer))
    };
    let [measuring, partner] = peers;
    Ok(Slot { measuring: link(&pair.ios, measuring)?, partner: Some(link(&pair.mac, partner)?) })
}
