//! Metrics of the bus between several nodes.

use std::sync::atomic::Ordering;

use super::exposition::{counter, gauge};
use crate::signaling::{bus::BusState, server::Signaling};

/// Appends the metrics of the bus; nothing on a single node.
pub(super) fn render(text: &mut String, signaling: &Signaling) {
    let Some((state, counters)) = signaling.bus() else { return };
    let up = usize::from(state == BusState::Up);
    gauge(text, "orion_bus_up", "Whether the bus between the nodes responds.", up);
    let messages = counters.messages.read();
    let help = "Messages between nodes; stray ones were for a socket that is gone.";
    counter(text, "orion_bus_messages_total", "direction", help, messages);
    let help = "Sockets closed because of the bus.";
    counter(text, "orion_bus_sockets_closed_total", "reason", help, counters.closed.read());
    let unreachable = [("", counters.unreachable.load(Ordering::Relaxed))];
    let help = "Peers dropped because their node is gone.";
    counter(text, "orion_bus_peers_unreachable_total", "", help, unreachable);
    let broken = [("", counters.broken.load(Ordering::Relaxed))];
    counter(text, "orion_bus_broken_total", "", "Connections to the bus that broke.", broken);
}
