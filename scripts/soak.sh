#!/usr/bin/env bash
# Many keyframes and pings over one connection with loss: nothing may get lost that need not, and
# memory must stay flat.
#
#   scripts/soak.sh            2,000 keyframes and 20,000 pings at 2 % loss, about 10 minutes
#   scripts/soak.sh --short    100 keyframes and 1,000 pings, about 40 seconds
#
# Loss is that of the simulated link, 2 % of the packets each way. Two runs of `orion-peer bench`:
#
#  1. Keyframes and pings. Every keyframe must arrive intact. Its memory is sampled, and a straight line
#     is fitted (least squares) to what comes after the first quarter, while buffers still fill.
#  2. Pings alone over the same link, with no life time: the channel sends each again until it gets
#     through, and none may be lost. The channel loses nothing else, so what is lost in the first run is
#     what its life time of 100 ms gave up. How many of the second run took longer than 100 ms shows how
#     many such pings there are.
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

# run NAME FLAG…: a bench over one connection at 2 % loss; its memory goes to NAME.rss as "TIME BYTES" (Linux).
run() {
    local name=$1
    shift
    "$orion_peer" --quiet bench --connections 1 --warmup 0 --pings "$pings" --loss 2% --delay 10ms \
        --out "$dir/$name.json" "$@" >"$dir/$name.txt" 2>&1 &
    bench=$!
    # As long as it is there, and no zombie.
    while rss=$(awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$bench/status" 2>/dev/null) && [[ -n $rss ]]; do
        printf '%s %s\n' "$EPOCHREALTIME" "$rss" >>"$dir/$name.rss"
        sleep "$every"
    done
    local code=0
    wait "$bench" || code=$?
    bench=
    # 3: a gate was not met; the checks below say which.
    if [[ $code -ne 0 && $code -ne 3 ]]; then
        cat "$dir/$name.txt" >&2
        return 1
    fi
}

# field NAME FILTER: a value of a result.
field() { jq -r "$2" "$dir/$1.json"; }

printf '%s keyframes and %s pings at 2 %% loss …\n' "$keyframes" "$pings" >&2
run both --keyframes "$keyframes" --interval 200ms --ping-interval 20ms
printf '%s pings that are never given up …\n' "$pings" >&2
run reliable --keyframes 0 --ping-interval 10ms --ping-lifetime 0

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
    "$(field both .keyframes.latencyMs.p50)" "$(field both .keyframes.latencyMs.p99)" \
    "$(field both .keyframes.latencyMs.max)"
# Of a long run the result keeps every n-th round trip only: a share is right all the same.
late=$(field reliable '[.connections.records[0].rtt[][1]] |
    ([.[] | select(. > 140)] | length) * 1e4 / length | round / 100')
lost=$(field reliable .rttMs.lost)
check "pings without a life time: $lost of $(field reliable .rttMs.sent) lost" test "$lost" -eq 0
printf '        of them %s %% took over 100 ms longer than the 40 ms of the link, at most %s ms\n' \
    "$late" "$(field reliable .rttMs.max)"
lost=$(field both .rttMs.lost)
printf '        pings with a life time of 100 ms: %s of %s given up, the others took at most %s ms\n' \
    "$lost" "$(field both .rttMs.sent)" "$(field both .rttMs.max)"

# The line through what comes after the first quarter.
awk '
    NR == 1 { begun = $1 }
    { t[NR] = $1 - begun; m[NR] = $2; if ($2 > max) max = $2 }
    END {
        from = int(NR / 4) + 1
        for (i = from; i <= NR; i++) { n++; st += t[i]; sm += m[i]; stt += t[i] * t[i]; stm += t[i] * m[i] }
        slope = (n * stt == st * st) ? 0 : (n * stm - st * sm) / (n * stt - st * st)
        printf "memory: first %.1f MB, after the first quarter %.1f MB, last %.1f MB, most %.1f MB, slope %.1f KB a minute\n",
            m[1] / 1e6, m[from] / 1e6, m[NR] / 1e6, max / 1e6, slope * 60 / 1e3
        # Growth of the whole rest by that slope.
        printf "%d\n", slope * (t[NR] - t[from]) > "/dev/stderr"
    }' "$dir/both.rss" >"$dir/memory" 2>"$dir/growth"
growth=$(<"$dir/growth")
check "$(<"$dir/memory")" test "$growth" -lt 4000000
exit "$failed"
