#!/usr/bin/env bash
# Tests orion-peer with headless Chromium, as the Mac and as the phone, with one line per check. Then tests variations of
# libwebrtc's behavior, and compares the results with the tables in src/guide/interop.md. Then opens the HTML reports of
# real bench runs and the viewer page in Chromium.
#
#   tests/browser/run.sh            builds the binary first
#   tests/browser/run.sh --table    writes the tables into src/guide/interop.md
#   tests/browser/run.sh --phone …  the test of scripts/phone.sh
#   ORION_PEER=FILE tests/browser/run.sh
#
# CHROMIUM sets a browser other than /usr/bin/chromium; SCREENSHOT=FILE saves a screenshot of the receiving page; KEEP=1
# keeps the received files; ONLY=chromiumAsPhone runs only that scenario of main.js, and ONLY=relay,ipv6 only the rows of
# interop.js whose names start with these prefixes; VIEW_SCREENSHOTS=DIR saves screenshots of the viewer page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

root=$(cd ../.. && pwd)
if [[ -z ${ORION_PEER:-} ]]; then
    (cd "$root" && cargo build --release --bin orion-peer >&2)
    target=${CARGO_TARGET_DIR:-target}
    [[ $target == /* ]] || target=$root/$target
    ORION_PEER=$target/release/orion-peer
fi
export ORION_PEER
export CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
for needed in "$ORION_PEER" "$CHROMIUM"; do
    if [[ ! -x $needed ]]; then
        printf 'browser test: %s is missing\n' "$needed" >&2
        exit 1
    fi
done

# npm runs only if the installed packages do not match the lock file.
if ! cmp -s package-lock.json node_modules/.of-this-lock; then
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error >&2
    cp package-lock.json node_modules/.of-this-lock
fi
if [[ ${1:-} == --table ]]; then
    exec node interop.js --table
fi
if [[ ${1:-} == --phone ]]; then
    shift
    exec node phone.js "$@"
fi
node main.js
node interop.js
if [[ -z ${ONLY:-} ]]; then
    node report.js
    node view.js
fi
