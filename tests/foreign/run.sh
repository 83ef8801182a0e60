#!/usr/bin/env bash
# Tests `orion-peer send` and `recv` with apps on other WebRTC stacks, over loopback: the rows of table.md, calls that
# should survive a lost socket, a killed or a hostile peer, and calls that should end. Prints one line per case, then a
# table.
#
#   tests/foreign/run.sh            builds the binary first
#   tests/foreign/run.sh --table    writes table.md
#   tests/foreign/run.sh --pace     measures how long keyframes take (pace.js)
#   ORION_PEER=FILE tests/foreign/run.sh
#
# ONLY=aiortc,werift/killed-8s runs only these stacks and cases; CHROMIUM and FIREFOX set browsers other than
# /usr/bin/chromium and /usr/bin/firefox-esr. The output of every process is saved in target/foreign.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$root/$target
if [[ -z ${ORION_PEER:-} ]]; then
    (cd "$root" && cargo build --release --bin orion-peer)
    ORION_PEER=$target/release/orion-peer
fi
export ORION_PEER
export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
export FIREFOX=${FIREFOX:-/usr/bin/firefox-esr}
export FOREIGN_LOGS=$target/foreign
for needed in "$ORION_PEER" "$CHROMIUM" "$FIREFOX"; do
    if [[ ! -x $needed ]]; then
        printf 'foreign test: %s is missing: run scripts/setup.sh\n' "$needed" >&2
        exit 1
    fi
done

# npm runs only if the installed packages do not match the lock file.
if ! cmp -s package-lock.json node_modules/.of-this-lock; then
    npm ci --no-audit --no-fund --loglevel=error >&2
    cp package-lock.json node_modules/.of-this-lock
fi
version=$(sed -n 's/^aiortc==//p' constraints.txt)
bin=$(../suites/venv.sh aiortc "$version" websockets --constraint "$PWD/constraints.txt")
export PYTHON=$bin/python
if other=$("$PYTHON" -m pip freeze | grep -vxFf constraints.txt); then
    printf 'foreign test: packages differ from constraints.txt, remove %s: %s\n' "${bin%/bin}" "$other" >&2
    exit 1
fi
# A separate program with its own dependencies.
CARGO_TARGET_DIR=$target/foreign-str0m cargo build --quiet --release --locked --manifest-path apps/str0m/Cargo.toml >&2
export STR0M=$target/foreign-str0m/release/orion-peer-foreign-str0m
# Debian's packages, without network.
export PION=$target/foreign-pion/orion-peer-foreign-pion
GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$target/foreign-pion/cache go build -o "$PION" apps/pion/main.go >&2
rm -rf "$FOREIGN_LOGS"
exec node main.js "$@"
