#!/usr/bin/env bash
# Measures the effect of `--phone-bitrate`: Chromium as the phone sends a photo as a keyframe to `recv` every 3.5 s, in one
# call for each link (20 ms each way) and setting: once with access units of 100 KB instead of the encoder's output, once
# with the encoder's output. For each call, prints the time from connection to first keyframe, the time from first to last
# packet of each keyframe and the link's minimum (ms), sizes, the p95 of pings when the link is idle and during keyframes,
# and the number of packets that the link's queue dropped. Fails only when keyframes do not arrive.
#
#   scripts/phone.sh            unlimited, 50, 20, 5, 2 and 1 Mbit/s, and 20 that drop to 1; off and auto; about 12 minutes
#   scripts/phone.sh --short    20 and 1 Mbit/s, three keyframes; two minutes
#   scripts/phone.sh --table    prints a Markdown table on stdout, everything else on stderr
#
#   --links 20,1,20-1           these links, Mbit/s
#   --settings off,auto,5Mbit   these settings; start=4000+max=8000+tias=9000 tries other hints (kbit/s), which the page
#                               adds to the answer of `--phone-bitrate off`
#   --units fixed               access units: fixed (100 KB), own (the encoder's) or both
#   --queue 32KB                `--queue` of recv; default: that of a home router
#   --keyframes 5               number of keyframes
#
# scripts/setup.sh installs Chromium and Node. CHROMIUM names another browser; with ORION_PEER=FILE nothing is built.
# Run it on a quiet machine: at 50 Mbit/s a keyframe takes 16 ms.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../tests/browser/run.sh" --phone "$@"
