#!/usr/bin/env bash
# Measures a whole run on this machine: serve, recv and send as three processes over loopback, with an
# hour's worth of keyframes at a short interval. Prints times and sizes of the keyframes, and resident
# memory and CPU time of the processes during the run. Checks nothing.
#
#   scripts/measure.sh [KEYFRAMES [INTERVAL [SOURCE]]]     default: 1029 0.1s samples
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${1:-1029}
interval=${2:-0.1s}
source=${3:-samples}
binary=${CARGO_TARGET_DIR:-target}/release/orion-peer

cargo build --release --quiet

work=$(mktemp -d)
pids=()
finish() {
    for pid in ${pids[@]+"${pids[@]}"}; do
        kill "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

"$binary" serve --listen 127.0.0.1:0 --turn-listen 127.0.0.1:0 --json \
    >"$work/serve.json" 2>"$work/serve.log" </dev/null &
serve=$!
pids+=("$serve")
for _ in $(seq 100); do
    [[ -s $work/serve.json ]] && break
    sleep 0.1
done
signal=$(sed -n 's/.*"signalUrl":"\([^"]*\)".*/\1/p' "$work/serve.json")

"$binary" recv --signal "$signal" --out "$work/frames" --format h264 --count "$count" --json \
    >"$work/recv.json" 2>"$work/recv.log" </dev/null &
recv=$!
"$binary" send --signal "$signal" --source "$source" --interval "$interval" --count "$count" --json \
    >"$work/send.json" 2>"$work/send.log" </dev/null &
send=$!
pids+=("$recv" "$send")

# Resident set (KiB) and CPU time (s) of a process; empty when it has exited.
resident() { awk '/^VmRSS:/ { print $2 }' "/proc/$1/status" 2>/dev/null || true; }
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ print ($14 + $15) / hz }' "/proc/$1/stat" 2>/dev/null || true; }

printf 'resident memory, MB\n%10s %8s %8s %8s\n' keyframes serve recv send
next=1
while kill -0 "$recv" 2>/dev/null && kill -0 "$send" 2>/dev/null; do
    received=$(grep -c '"kind":"keyframe"' "$work/recv.json" || true)
    if ((received >= next)); then
        printf '%10d %8.1f %8.1f %8.1f\n' "$received" \
            "$(resident "$serve" | awk '{ print $1 * 1.024 / 1000 }')" \
            "$(resident "$recv" | awk '{ print $1 * 1.024 / 1000 }')" \
            "$(resident "$send" | awk '{ print $1 * 1.024 / 1000 }')"
        cpu_recv=$(cpu "$recv")
        cpu_send=$(cpu "$send")
        next=$((received + (count + 7) / 8))
    fi
    sleep 0.2
done
wait "$recv" || { tail -5 "$work/recv.log"; exit 1; }
wait "$send" || { tail -5 "$work/send.log"; exit 1; }

# quantiles FILE FIELD NAME: prints n, p50, p90, p99 and max of a numeric field in JSON lines.
quantiles() {
    sed -n "/\"kind\":\"keyframe\"/s/.*\"$2\":\([0-9.]*\).*/\1/p" "$1" | sort -n | awk -v name="$3" '
        { v[NR] = $1 }
        function at(q) { i = int((NR - 1) * q + 0.5) + 1; return v[i] }
        END { if (NR) printf "%-34s %6d %9.2f %9.2f %9.2f %9.2f\n", name, NR, at(0.5), at(0.9), at(0.99), v[NR] }'
}
printf '\n%-34s %6s %9s %9s %9s %9s\n' 'per keyframe' n p50 p90 p99 max
quantiles "$work/send.json" encode 'encode, ms'
quantiles "$work/send.json" send 'handed to the connection, ms'
quantiles "$work/recv.json" receiveMs 'first packet received to last, ms'
quantiles "$work/recv.json" decode 'decode, ms'
quantiles "$work/recv.json" write 'write and sync, ms'
quantiles "$work/recv.json" latencyMs 'capture to complete, ms'
quantiles "$work/recv.json" bytes 'size, bytes'
printf '\nverified %d of %d\n' "$(grep -c '"verified":true' "$work/recv.json" || true)" "$count"
printf 'CPU time, s: recv %s, send %s\n' "${cpu_recv:-?}" "${cpu_send:-?}"
