//! Metrics of the embedded TURN server in the Prometheus text format. Labels are error codes and reasons, which are
//! few in number, and never addresses or names.

use crate::{
    server::metrics::{counter, gauge},
    turn::TurnStats,
};

/// Appends the metrics.
pub fn append(text: &mut String, stats: &TurnStats) {
    let current = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    gauge(
        text,
        "orion_turn_allocations",
        "Current TURN allocations.",
        current(stats.allocations_active),
    );
    let help = "Current TCP and TLS connections of TURN clients.";
    gauge(text, "orion_turn_tcp_connections", help, current(stats.tcp_connections));
    let totals = [
        ("allocations", stats.allocations_total),
        ("bindings", stats.bindings),
        ("refused_connections", stats.tcp_refused),
        ("withheld_errors", stats.errors_withheld),
        ("bytes_to_peers", stats.bytes_to_peers),
        ("bytes_to_clients", stats.bytes_to_clients),
        ("packets_to_peers", stats.packets_to_peers),
        ("packets_to_clients", stats.packets_to_clients),
    ];
    for (name, value) in totals {
        let help = format!("TURN {} since startup.", name.replace('_', " "));
        counter(text, &format!("orion_turn_{name}_total"), "", &help, [("", value)]);
    }
    let help = "Packets dropped instead of relayed, by reason.";
    let dropped = stats.dropped.iter().map(|(reason, count)| (reason.as_str(), *count));
    counter(text, "orion_turn_dropped_packets_total", "reason", help, dropped);
    let refused: Vec<(String, u64)> =
        stats.refused.iter().map(|(reason, count)| (reason.code().to_string(), *count)).collect();
    let refused = refused.iter().map(|(code, count)| (code.as_str(), *count));
    let help = "Rejected TURN requests, by STUN error code.";
    counter(text, "orion_turn_refused_total", "code", help, refused);
}
