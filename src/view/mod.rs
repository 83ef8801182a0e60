//! The page of `recv --view`: what a receiver tells, in a browser, while it runs.
//!
//! | file | what |
//! |---|---|
//! | [`hub`] | what there is to show: to those who watch now, and to those who come later |
//! | [`gate`] | who may look |
//! | `door` | how many may come, and for how long |
//! | [`routes`] | events out, texts and requests in, pictures from the disk |
//!
//! The page itself is in [`crate::page`]; it is fed by Server-Sent Events (WHATWG HTML §9.2).

mod door;
pub mod gate;
pub mod hub;
pub mod routes;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::mpsc};

use self::{
    door::Door,
    gate::Gate,
    hub::Hub,
    routes::{Room, Watchers},
};

use crate::peer::config::local_addresses;

/// How long those who watch may take to hear of the end and to fetch the last pictures.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A page that is served.
pub struct Viewer {
    /// Where what is to be shown goes.
    pub hub: Arc<Hub>,
    address: SocketAddr,
    gate: Gate,
    watchers: Watchers,
    door: Door,
}

impl Viewer {
    /// Serves the page on a listener. Whoever opens it may send texts and ask for keyframes, by `lines`,
    /// as if typed; on an address that is not loopback only with the token of [`Viewer::url`].
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(
        listener: TcpListener,
        hub: Arc<Hub>,
        lines: mpsc::Sender<String>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let gate = Gate::new(address.ip());
        let watchers = Watchers::default();
        let room = Room::new(Arc::clone(&hub), lines, gate.clone(), watchers.clone());
        let door = Door::open(listener, routes::all(Arc::new(room)));
        Ok(Self { hub, address, gate, watchers, door })
    }

    /// The URL to open; with the token, where one is needed.
    #[must_use]
    pub fn url(&self) -> String {
        let query = self.gate.token().map(|token| format!("?token={token}")).unwrap_or_default();
        let mut address = self.address;
        if address.ip().is_unspecified() {
            // Of all addresses the first: nobody can open `0.0.0.0` from elsewhere.
            let (v4, v6) = (address.is_ipv4(), address.is_ipv6());
            if let Some(ip) = local_addresses(None, v4, v6, false).first() {
                address.set_ip(*ip);
            }
        }
        format!("http://{address}/{query}")
    }

    /// Says that it is over, and closes once those who watch have what they still wanted.
    pub async fn close(self, reason: &str) {
        self.hub.end(reason);
        let Self { watchers, door, .. } = self;
        let ended = async {
            watchers.gone().await;
            door.close().await;
        };
        // Who has not gone by then is cut off with the run.
        let _late = tokio::time::timeout(END_WITHIN, ended).await.is_err();
    }
}
