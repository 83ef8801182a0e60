//! The page of `recv --view`: a running session in the browser.
//!
//! | file | contents |
//! |---|---|
//! | [`hub`] | distribution of events to current and new viewers |
//! | [`access`] | access control |
//! | `listener` | limits on connections |
//! | [`routes`] | events, text messages, keyframe requests and pictures |
//!
//! The page itself is in [`crate::page`]; it is fed by Server-Sent Events (WHATWG HTML §9.2).

pub mod access;
pub mod hub;
mod listener;
pub mod routes;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::mpsc};

use self::{
    access::AccessControl,
    hub::Hub,
    listener::LimitedListener,
    routes::{ViewerPermits, ViewerState},
};

use crate::peer::local_network::local_addresses;

/// How long viewers may take to receive the end event and fetch the last pictures.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A running page server.
pub struct Viewer {
    /// The events to show.
    pub hub: Arc<Hub>,
    address: SocketAddr,
    access: AccessControl,
    viewers: ViewerPermits,
    server: LimitedListener,
}

impl Viewer {
    /// Serves the page on a listener. Viewers can send text messages and request keyframes, passed to `lines` as if
    /// typed; on other than loopback addresses they need the token in [`Viewer::url`].
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(
        listener: TcpListener,
        hub: Arc<Hub>,
        lines: mpsc::Sender<String>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let access = AccessControl::new(address.ip());
        let viewers = ViewerPermits::default();
        let state = ViewerState::new(Arc::clone(&hub), lines, access.clone(), viewers.clone());
        let server = LimitedListener::open(listener, routes::all(Arc::new(state)));
        Ok(Self { hub, address, access, viewers, server })
    }

    /// The URL to open, including the token if one is required.
    #[must_use]
    pub fn url(&self) -> String {
        let query = self.access.token().map(|token| format!("?token={token}")).unwrap_or_default();
        let mut address = self.address;
        if address.ip().is_unspecified() {
            // Uses the first local address, because `0.0.0.0` cannot be opened from other machines.
            let (v4, v6) = (address.is_ipv4(), address.is_ipv6());
            if let Some(ip) = local_addresses(None, v4, v6, false).first() {
                address.set_ip(*ip);
            }
        }
        format!("http://{address}/{query}")
    }

    /// Announces the end, and closes once all viewers have disconnected.
    pub async fn close(self, reason: &str) {
        self.hub.end(reason);
        let Self { viewers, server, .. } = self;
        let ended = async {
            viewers.all_returned().await;
            server.close().await;
        };
        // Viewers that are still connected are cut off.
        let _late = tokio::time::timeout(END_TIMEOUT, ended).await.is_err();
    }
}
