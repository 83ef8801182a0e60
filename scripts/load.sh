#!/usr/bin/env bash
# Measures the signaling server under load and compares it with a minimal relay (tests/load/baseline_relay.rs)
# in one run: memory of idle sockets, handshakes, relay latency at 1,000 messages per second, and the maximum
# number of messages per second. Prints one Markdown table.
#
#   scripts/load.sh           10,000 sockets, medians of three alternating rounds; about 4 minutes
#   scripts/load.sh --short   200 sockets, one round, as a test: nothing may fail or be lost
#
# Server and load generator share this machine, so all figures are lower than those of a dedicated server.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rooms=5000
rounds=3
seconds=10
case ${1:-} in
'') ;;
--short)
    rooms=100
    rounds=1
    seconds=2
    ;;
*)
    printf 'usage: %s [--short]\n' "$0" >&2
    exit 2
    ;;
esac

target=${CARGO_TARGET_DIR:-target}
peer=$target/release/orion-peer
baseline=$target/release/examples/baseline-relay
for file in "$peer" "$baseline"; do
    if [[ ! -x $file ]]; then
        printf 'load: %s is missing: run `cargo build --release --bins --examples` first\n' "$file" >&2
        exit 1
    fi
done
ulimit -Sn "$(ulimit -Hn)"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
secret=a-secret-for-the-load-script-only-0123

# of_ours NAME FLAG…: runs the load against the signaling server.
of_ours() {
    local name=$1
    shift
    "$peer" --quiet --json load "$@" >"$dir/$name.json"
}

# of_baseline NAME FLAG…: runs the same load against the minimal relay.
of_baseline() {
    local name=$1
    shift
    "$baseline" "$secret" >"$dir/url" </dev/null &
    local pid=$!
    for _ in $(seq 100); do
        [[ -s $dir/url ]] && break
        sleep 0.1
    done
    local status=0
    "$peer" --quiet --json load --signal "$(cat "$dir/url")" --jwt-secret "$secret" --server-pid "$pid" "$@" \
        >"$dir/$name.json" || status=$?
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    rm "$dir/url"
    return "$status"
}

steady=(--rooms "$rooms" --message-rate 1000/s --duration "${seconds}s" --idle 3s)
full=(--rooms 100 --message-rate max --duration "${seconds}s" --idle 1s)
for round in $(seq "$rounds"); do
    printf 'load: round %s of %s\n' "$round" "$rounds" >&2
    of_ours "ours-steady-$round" "${steady[@]}"
    of_baseline "baseline-steady-$round" "${steady[@]}"
    of_ours "tls-steady-$round" --tls "${steady[@]}"
    of_ours "ours-full-$round" "${full[@]}"
    of_baseline "baseline-full-$round" "${full[@]}"
    of_ours "tls-full-$round" --tls "${full[@]}"
done

python3 - "$dir" "$rounds" <<'END'
import json
import statistics
import sys

directory, rounds = sys.argv[1], int(sys.argv[2])


def median(kind, *path):
    values = []
    for number in range(1, rounds + 1):
        with open(f"{directory}/{kind}-{number}.json") as file:
            value = json.load(file)
        for key in path:
            value = value[key]
        values.append(value)
    return statistics.median(values)


servers = ["ours", "tls", "baseline"]
rows = [
    ("idle socket, KiB", "{:.1f}", lambda s: median(f"{s}-steady", "memory", "perSocket") / 1024),
    ("handshakes per second", "{:.0f}", lambda s: median(f"{s}-steady", "sockets", "perSecond")),
    ("… CPU of each, µs", "{:.0f}", lambda s: median(f"{s}-steady", "cpu", "microsPerHandshake")),
    ("latency at 1,000 messages per second: p50, ms", "{:.2f}", lambda s: median(f"{s}-steady", "relay", "latencyMs", "p50")),
    ("… p99, ms", "{:.2f}", lambda s: median(f"{s}-steady", "relay", "latencyMs", "p99")),
    ("messages per second, maximum", "{:.0f}", lambda s: median(f"{s}-full", "relay", "perSecond")),
    ("… CPU of each, µs", "{:.1f}", lambda s: median(f"{s}-full", "cpu", "microsPerMessage")),
]
sockets = int(median("ours-steady", "sockets", "opened"))
print(f"{sockets} sockets for the first five rows, 200 for the others; medians of {rounds}")
print()
print("| | signaling server | with TLS | minimal relay |")
print("|---|---|---|---|")
for name, form, value in rows:
    print("| " + " | ".join([name, *(form.format(value(server)) for server in servers)]) + " |")
ratio = median("ours-full", "relay", "perSecond") / median("baseline-full", "relay", "perSecond")
print()
print(f"throughput: {ratio:.2f} times that of the minimal relay")
END
