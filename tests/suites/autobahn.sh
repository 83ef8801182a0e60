#!/usr/bin/env bash
# Runs Autobahn's WebSocket test suite on the WebSocket code of the signaling server, with the PyPI package `kosoku`.
# Sets 12 and 13 test compression, which this server does not offer.
#
# Every failing case must be in tests/suites/autobahn.txt with its reason, and every case there must fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

echo_server=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples/websocket-echo")
if [[ ! -x $echo_server ]]; then
    printf 'autobahn: %s is missing: build the tests first\n' "$echo_server" >&2
    exit 1
fi
bin=$(tests/suites/venv.sh kosoku 0.1.0)
work=$(mktemp -d)
"$echo_server" >"$work/address" 2>"$work/errors" </dev/null &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    [[ -s $work/address ]] && break
    sleep 0.1
done
timeout 600 "$bin/kosoku" "$(cat "$work/address")" -x '12.*' -x '13.*' -o "$work/report" >"$work/log" 2>&1 || {
    # It also fails when a case fails; the report is what counts.
    [[ -e $work/report/index.json ]] || { cat "$work/log" >&2; exit 1; }
}
python3 tests/suites/autobahn.py "$work/report/index.json" tests/suites/autobahn.txt
