#!/usr/bin/env bash
# Runs every check of the project, each as a named step, and counts them.
#
#   scripts/test.sh          everything
#   scripts/test.sh --fast   without the steps that need a browser or a virtual machine, or build the documentation
#
# A step whose component is missing fails: nothing is left out silently.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fast=false
case ${1:-} in
'') ;;
--fast) fast=true ;;
*)
    printf 'usage: %s [--fast]\n' "$0" >&2
    exit 2
    ;;
esac

passed=0
failed=0
failures=()

# step NAME COMMAND…: runs the command in a shell of its own, so that its `set -e` holds.
step() {
    local name=$1
    shift
    printf '== step: %s\n' "$name"
    if "$@" </dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$name")
        printf '== FAILED: %s\n' "$name"
    fi
}

run_tests() {
    if command -v cargo-nextest >/dev/null 2>&1; then
        cargo nextest run --release --no-fail-fast
        # nextest does not run the examples in the documentation.
        cargo test --release --doc
    else
        cargo test --release --no-fail-fast
    fi
}

# Called through `bash -c`, for `set -e` does nothing inside a condition.
in_shell() { bash -euo pipefail -c "$(declare -f "$1"); $1"; }

browser() {
    if [[ ! -x tests/browser/run.sh ]]; then
        printf 'tests/browser/run.sh is missing\n' >&2
        return 1
    fi
    # The tests have built it; asking cargo again would build it with other features.
    local target=${CARGO_TARGET_DIR:-target}
    ORION_PEER=$(realpath "$target/release/orion-peer") tests/browser/run.sh
}

# Other WebRTC stacks: the rows of tests/foreign/table.md, sockets that are lost, peers that are killed.
foreign() {
    local target=${CARGO_TARGET_DIR:-target}
    ORION_PEER=$(realpath "$target/release/orion-peer") tests/foreign/run.sh
}

# Many connections in one process, side by side: none may fail, none of their keyframes get lost.
bench() {
    local target=${CARGO_TARGET_DIR:-target}
    "$target/release/orion-peer" bench --connections 200 --parallel 20 --pings 2000 --keyframes 100 \
        --min-success 100% --min-keyframes-intact 100%
}

# Every parser of what comes from outside, for about a minute; see tests/it/fuzz.rs.
fuzz() {
    export ORION_FUZZ_SECONDS=12
    if command -v cargo-nextest >/dev/null 2>&1; then
        cargo nextest run --release --no-fail-fast --success-output immediate -E 'test(/^fuzz::/)'
    else
        cargo test --release --test it fuzz:: -- --nocapture
    fi
}

# A million packets of strangers in a minute, of every kind; see tests/it/stranger.rs.
stranger() {
    export ORION_STRANGER_SECONDS=60
    if command -v cargo-nextest >/dev/null 2>&1; then
        cargo nextest run --release --no-fail-fast --success-output immediate -E 'test(/^stranger::a_flood_/)'
    else
        cargo test --release --test it stranger::a_flood_ -- --nocapture
    fi
}

# Loss over a longer time: nothing is lost that need not be, and memory stays flat.
soak() { scripts/soak.sh --short; }

# Two real peers behind every pair of NATs, simulated in the process: all as theory says.
matrix() {
    local target=${CARGO_TARGET_DIR:-target}
    "$target/release/orion-peer" --quiet lab --matrix
}

# The same on NATs of the kernel, then some of them without root rights.
kernel_matrix() {
    local target=${CARGO_TARGET_DIR:-target}
    "$target/release/orion-peer" --quiet lab --matrix --kernel
    if [[ $(id -u) -ne 0 ]]; then
        return
    fi
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    # Another user may not see into the target directory.
    cp "$target/release/orion-peer" "$dir/"
    chmod 755 "$dir"
    setpriv --reuid 65534 --regid 65534 --clear-groups "$dir/orion-peer" --quiet \
        lab --matrix --kernel --profiles none,port,sym,udp-blocked
}

# What happens to a call over time, in network namespaces; two at a time, for they mostly wait.
outages() {
    local target=${CARGO_TARGET_DIR:-target}
    mapfile -t files < <(grep -l '^timeline' samples/scenarios/*.toml)
    half=$(((${#files[@]} + 1) / 2))
    "$target/release/orion-peer" --quiet lab --scenario "${files[@]:0:half}" &
    other=$!
    "$target/release/orion-peer" --quiet lab --scenario "${files[@]:half}"
    wait "$other"
}

# A V4L2 camera in a virtual machine: Debian's kernel with its driver `vivid`.
camera() {
    local target=${CARGO_TARGET_DIR:-target}
    ORION_PEER=$(realpath "$target/release/orion-peer") tests/camera/run.sh
}

# Keyframes against x264 on photos from Debian packages: fill, passes, PSNR.
quality() { scripts/quality.sh; }

# The test suites of others against our servers.
autobahn() { tests/suites/autobahn.sh; }
turn_client() { tests/suites/turn.sh; }
openapi() { tests/suites/openapi.sh; }

# Many sockets and messages on the signaling server and on a minimal relay: none may fail or get lost.
load() { scripts/load.sh --short; }

# Nodes that are stopped for longer than a lease on the bus between them lasts.
bus() {
    if command -v cargo-nextest >/dev/null 2>&1; then
        cargo nextest run --release --no-fail-fast --run-ignored only -E 'test(/^bus::/)'
    else
        cargo test --release --test it bus:: -- --ignored
    fi
}

# Our own server keeps every rule of the wire contract in real time, a restart and a revocation included.
contract() {
    local target=${CARGO_TARGET_DIR:-target}
    peer=$(realpath "$target/release/orion-peer")
    dir=$(mktemp -d)
    trap 'kill "$(cat "$dir/pid")"; rm -rf "$dir"' EXIT
    export peer dir
    export secret=a-secret-for-the-contract-step-only
    address=127.0.0.1:18787
    cat >"$dir/serve" <<END
"$peer" --quiet serve --listen $address --no-turn --db "$dir/pairs.db" --add-pair demo:phone:mac:user \
    --add-pair two:phone2:mac2:user --jwt-secret $secret --login-secret login-$secret >"$dir/log" 2>&1 &
echo \$! >"$dir/pid"
END
    cat >"$dir/restart" <<END
kill "\$(cat "$dir/pid")"
while kill -0 "\$(cat "$dir/pid")" 2>/dev/null; do sleep 0.1; done
. "$dir/serve"
END
    sh "$dir/serve"
    login=$("$peer" token mint --login --user user --login-secret login-$secret)
    for _ in $(seq 50); do
        (: </dev/tcp/${address/://}) 2>/dev/null && break
        sleep 0.2
    done
    "$peer" --quiet check --slow --signal "ws://$address" --access-token "$login" --jwt-secret $secret \
        --pair demo --other-pair two --other-device phone2 --restart-command "sh $dir/restart" \
        --revoke-command "$peer serve pairs revoke demo --db $dir/pairs.db"
}

bash_syntax() {
    local script
    for script in scripts/*.sh tests/*/run.sh tests/suites/*.sh .ci/run; do
        bash -n "$script"
    done
    for script in tests/camera/init.sh tests/camera/checks.sh; do
        sh -n "$script"
    done
    if command -v shellcheck >/dev/null 2>&1; then
        shellcheck scripts/*.sh .ci/run
    fi
}

if $fast; then
    step setup scripts/setup.sh --build
else
    step setup scripts/setup.sh
fi
step scripts in_shell bash_syntax
step format cargo fmt --check
step clippy cargo clippy --release --all-targets -- -D warnings
step tests in_shell run_tests
if ! $fast; then
    step documentation env RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --release
    step fuzz in_shell fuzz
    step stranger in_shell stranger
    step bus in_shell bus
    step contract in_shell contract
    step bench in_shell bench
    step soak in_shell soak
    step load in_shell load
    step quality in_shell quality
    step autobahn in_shell autobahn
    step turnutils in_shell turn_client
    step openapi in_shell openapi
    step matrix in_shell matrix
    step kernel in_shell kernel_matrix
    step outages in_shell outages
    step chromium in_shell browser
    step foreign in_shell foreign
    step camera in_shell camera
fi

for name in ${failures[@]+"${failures[@]}"}; do
    printf 'failed: %s\n' "$name"
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed -eq 0 ]]
