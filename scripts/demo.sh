#!/usr/bin/env bash
# Demonstrates the program on this machine: builds it, sends five keyframes made from the sample photos
# through signaling and WebRTC, and lists the received keyframes in frames/.
#
#   scripts/demo.sh [DIR]   writes to DIR instead of frames/
set -euo pipefail
[[ $# -eq 0 ]] || out=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${out:-frames}

scripts/setup.sh --build
cargo build --release
target=${CARGO_TARGET_DIR:-target}
"$target/release/orion-peer" demo --source samples --count 5 --interval 1s --out "$out"

printf '\nKeyframes in %s:\n' "$out"
ls -l "$out"
