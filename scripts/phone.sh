#!/usr/bin/env bash
# Measures the effect of `--phone-bitrate`: Chromium as the phone against `recv`, a photo every 3.5 s as a keyframe, one call
# for each link (20 ms each way) and setting: once with access units of 100 KB in place of what the encoder makes, once
# with its own. Prints for each call the time from connection to first keyframe, ms from first to last packet of each
# keyframe beside the link's minimum, sizes, the p95 of pings when the link is idle and during keyframes, and how many
# packets the link's queue dropped. Fails only when keyframes do not arrive.
#
#   scripts/phone.sh            unlimited, 50, 20, 5, 2 and 1 Mbit/s, and 20 that become 1; off and auto; about 12 minutes
#   scripts/phone.sh --short    20 and 1 Mbit/s, three keyframes; two minutes
#   scripts/phone.sh --table    prints a Markdown table on stdout, everything else on stderr
#
#   --links 20,1,20-1           these links, Mbit/s
#   --settings off,auto,5Mbit   these settings; start=4000+max=8000+tias=9000 tries other hints (kbit/s), which the page
#                               puts into the answer of `--phone-bitrate off`
#   --units fixed               fixed, own or both
#   --queue 32KB                `--queue` of recv; default: a home router's
#   --keyframes 5               how many
#
# scripts/setup.sh installs Chromium and Node. CHROMIUM names another browser; with ORION_PEER=FILE nothing is built.
# Run it on a quiet machine: at 50 Mbit/s a keyframe takes 16 ms.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../tests/browser/run.sh" --phone "$@"
