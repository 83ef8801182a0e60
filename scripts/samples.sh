#!/usr/bin/env bash
# Counts how often each sample scenario passes.
#
#   scripts/samples.sh [RUNS] [FILE...]     runs each file RUNS times (default 50), or all samples without FILE
#
# Runs one scenario at a time, or four at a time if they have a timeline, because those mostly wait. The exit code is 3
# if a scenario failed at least once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

runs=${1:-50}
if [[ ! $runs =~ ^[1-9][0-9]*$ ]]; then
    printf 'usage: %s [RUNS] [FILE...]\n' "$0" >&2
    exit 2
fi
shift || true
files=("$@")
[[ ${#files[@]} -gt 0 ]] || files=(samples/scenarios/*.toml)
orion_peer=${ORION_PEER:-${CARGO_TARGET_DIR:-target}/release/orion-peer}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# pass FILE: runs it RUNS times, and prints how often it passed and the output of failed runs.
pass() {
    local file=$1 name passed=0 run
    name=$(basename "$file" .toml)
    for ((run = 1; run <= runs; run++)); do
        if "$orion_peer" --quiet lab --scenario "$file" >"$dir/$name.log" 2>&1; then
            passed=$((passed + 1))
        else
            sed "s/^/  $name, run $run: /" "$dir/$name.log" | tail -n 5
        fi
    done
    printf '%-40s %d of %d\n' "$name" "$passed" "$runs"
    ((passed == runs)) || touch "$dir/failed"
}

under_way=0
for file in "${files[@]}"; do
    if grep -q '^timeline' "$file"; then
        pass "$file" &
        under_way=$((under_way + 1))
        if ((under_way == 4)); then
            wait
            under_way=0
        fi
    else
        pass "$file"
    fi
done
wait
[[ ! -e $dir/failed ]] || exit 3
