#!/usr/bin/env bash
# Sends many keyframes and pings over one connection with loss: everything that the transport can recover must arrive,
# and memory use must not grow.
#
#   scripts/soak.sh            2,000 keyframes and 20,000 pings at 2 % loss, about 15 minutes
#   scripts/soak.sh --short    100 keyframes and 1,000 pings, about 50 seconds
#
# The simulated link loses 2 % of the packets in each direction. There are two runs of `orion-peer bench`:
#
#  1. Keyframes and pings. Every keyframe must arrive intact. The memory of the process is sampled, and a straight
#     line is fitted (least squares) to the samples after the first quarter, during which buffers still fill.
#  2. Only pings over the same link, without a lifetime: the channel retransmits each until it is delivered, and none
#     may be lost. Nothing else differs, so the losses of the first run are due to the channel's message lifetime of
#     100 ms; they must not exceed the packets lost on the link. The pings use 20 connections, so that losses also
#     affect channels that are being opened.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

keyframes=2000 pings=20000 every=1
case ${1:-} in
'') ;;
--short) keyframes=100 pings=1000 every=0.25 ;;
*)
    printf 'usage: %s [--short]\n' "$0" >&2
    exit 2
    ;;
esac

orion_peer=${ORION_PEER:-${CARGO_TARGET_DIR:-target}/release/orion-peer}
dir=$(mktemp -d)
bench=
trap '[[ -z $bench ]] || kill "$bench" 2>/dev/null || true; rm -rf "$dir"' EXIT

# run NAME CONNECTIONS FLAG…: runs bench over connections with 2 % loss, and writes its memory to NAME.rss as "TIME BYTES"
# (Linux). This script does not test whether a connection is established: bench is run again if it is not.
run() {
    local try
    for try in 1 2 3; do
        once "$@" && return
        printf 'attempt %s: no connection\n' "$try" >&2
    done
    return 1
}

# Fails without a connection, and exits when the bench itself fails.
once() {
    local name=$1 connections=$2
    shift 2
    rm -f "$dir/$name.rss"
    "$orion_peer" --quiet bench --connections "$connections" --warmup 0 --pings "$pings" --loss 2% --delay 10ms \
        --out "$dir/$name.json" "$@" >"$dir/$name.txt" 2>&1 &
    bench=$!
    # Until the process has exited or is a zombie.
    while rss=$(awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$bench/status" 2>/dev/null) && [[ -n $rss ]]; do
        printf '%s %s\n' "$EPOCHREALTIME" "$rss" >>"$dir/$name.rss"
        sleep "$every"
    done
    local code=0
    wait "$bench" || code=$?
    bench=
    if [[ ! -s $dir/$name.json ]]; then
        cat "$dir/$name.txt" >&2
        exit 1
    fi
    [[ $code -eq 0 ]] && return
    # The measurements are checked below.
    grep -A3 '^error' "$dir/$name.txt" >&2 || true
    [[ $(field "$name" .rttMs.sent) -gt 0 ]]
}

# field NAME FILTER: prints a value of a result.
field() { jq -r "$2" "$dir/$1.json"; }
ms() { field "$1" "$2 | . * 10 | round / 10"; }

printf '%s keyframes and %s pings at 2 %% loss …\n' "$keyframes" "$pings" >&2
run both 1 --keyframes "$keyframes" --interval 200ms --ping-interval 20ms
printf '%s pings without a lifetime …\n' "$pings" >&2
run reliable 20 --keyframes 0 --ping-interval 20ms --ping-lifetime 0

failed=0
# check WORDS CONDITION…
check() {
    local words=$1
    shift
    if "$@"; then
        printf 'ok      %s\n' "$words"
    else
        printf 'FAILED  %s\n' "$words"
        failed=1
    fi
}

intact=$(field both .keyframes.intact)
sent=$(field both .keyframes.sent)
check "keyframes: $intact of $sent intact" test "$intact" -eq "$keyframes"
printf '        latency p50 %s ms, p99 %s ms, max %s ms\n' \
    "$(ms both .keyframes.latencyMs.p50)" "$(ms both .keyframes.latencyMs.p99)" \
    "$(ms both .keyframes.latencyMs.max)"
lost=$(field reliable .rttMs.lost)
check "pings without a lifetime: $lost of $(field reliable .rttMs.sent) lost" test "$lost" -eq 0
printf '        round trip p50 %s ms, p99 %s ms, max %s ms\n' "$(ms reliable .rttMs.p50)" \
    "$(ms reliable .rttMs.p99)" "$(ms reliable .rttMs.max)"
# Ping and pong each go over two links, so 1 - 0.98^4 of the round trips have a loss. Up to three standard
# deviations more are within chance.
lost=$(field both .rttMs.lost)
sent=$(field both .rttMs.sent)
most=$(awk -v n="$sent" 'BEGIN { p = 1 - 0.98 ^ 4; print int(n * p + 3 * sqrt(n * p * (1 - p))) }')
check "pings with a lifetime of 100 ms: $lost of $sent lost, at most $most allowed" test "$lost" -le "$most"
printf '        round trip p50 %s ms, p99 %s ms, max %s ms\n' "$(ms both .rttMs.p50)" \
    "$(ms both .rttMs.p99)" "$(ms both .rttMs.max)"

# Fits the line to the samples after the first quarter.
awk '
    NR == 1 { start = $1 }
    { t[NR] = $1 - start; m[NR] = $2; if ($2 > max) max = $2 }
    END {
        from = int(NR / 4) + 1
        for (i = from; i <= NR; i++) { n++; st += t[i]; sm += m[i]; stt += t[i] * t[i]; stm += t[i] * m[i] }
        slope = (n * stt == st * st) ? 0 : (n * stm - st * sm) / (n * stt - st * st)
        printf "memory: first %.1f MB, after the first quarter %.1f MB, last %.1f MB, maximum %.1f MB, slope %.1f KB/min\n",
            m[1] / 1e6, m[from] / 1e6, m[NR] / 1e6, max / 1e6, slope * 60 / 1e3
        # Growth after the first quarter, computed from that slope.
        printf "%d\n", slope * (t[NR] - t[from]) > "/dev/stderr"
    }' "$dir/both.rss" >"$dir/memory" 2>"$dir/growth"
growth=$(<"$dir/growth")
check "$(<"$dir/memory")" test "$growth" -lt 4000000
exit "$failed"
