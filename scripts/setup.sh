#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that building and testing need and that are missing on this machine.
# Does not prompt, and does nothing when everything is installed.
#
#   scripts/setup.sh           for building and testing
#   scripts/setup.sh --build   for building only
set -euo pipefail

# A command or file that exists when the package is installed, followed by the package.
build_needs=(
    "g++ g++"
    "make make"
    "nasm nasm"
    "clang clang"
    "pkg-config pkg-config"
    "/usr/include/linux/videodev2.h linux-libc-dev"
)
test_needs=(
    "turnserver coturn"
    "pg_ctlcluster postgresql"
    "/usr/sbin/pgbouncer pgbouncer"
    "ip iproute2"
    "nft nftables"
    "chromium chromium"
    "firefox-esr firefox-esr"
    "node nodejs"
    "npm npm"
    "go golang-go"
    "/usr/share/gocode/src/github.com/pion/webrtc golang-github-pion-webrtc.v3-dev"
    "ffmpeg ffmpeg"
    "faketime faketime"
    "qemu-system-x86_64 qemu-system-x86"
    "busybox busybox-static"
    "cpio cpio"
    "v4l2-ctl v4l-utils"
    "jq jq"
    "curl curl"
    "openssl openssl"
    "python3 python3"
    "redis-server redis-server"
    "zsh zsh"
    "fish fish"
)

say() { printf 'setup: %s\n' "$*" >&2; }

is_there() {
    case $1 in
    /*) [[ -e $1 ]] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

has_libclang() {
    local found
    found=$(compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*so*' || true)
    [[ -n $found || -n ${LIBCLANG_PATH:-} ]]
}

# Debian's python3 package alone cannot create virtual environments.
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# The packages of GStreamer as a WebRTC peer, for Debian's python3.
gstreamer_packages=(
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-nice
    python3-gi gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0
)
has_gstreamer() {
    /usr/bin/python3 - 2>/dev/null <<'END'
import sys
import gi

for name in ("Gst", "GstApp", "GstSdp", "GstWebRTC"):
    gi.require_version(name, "1.0")
from gi.repository import Gst

Gst.init(None)
needed = ("webrtcbin", "appsrc", "rtph264pay", "dtlsdec", "srtpdec", "sctpdec", "nicesrc")
sys.exit(not all(Gst.ElementFactory.find(element) for element in needed))
END
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        say "run this as root: $*"
        exit 1
    fi
}

missing_packages() {
    local need
    for need in "$@"; do
        is_there "${need% *}" || printf '%s\n' "${need#* }"
    done
}

main() {
    local needs=("${build_needs[@]}")
    if [[ ${1:-} != --build ]]; then
        needs+=("${test_needs[@]}")
    fi
    local missing
    mapfile -t missing < <(missing_packages "${needs[@]}")
    has_libclang || missing+=(libclang-dev)
    if [[ ${1:-} != --build ]]; then
        has_venv || missing+=(python3-venv)
        has_gstreamer || missing+=("${gstreamer_packages[@]}")
    fi
    if ((${#missing[@]} > 0)); then
        if ! command -v apt-get >/dev/null 2>&1; then
            say "apt-get is missing: install the equivalents of these Debian packages: ${missing[*]}"
            exit 1
        fi
        say "installing ${missing[*]}"
        as_root apt-get update -q >&2
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
            "${missing[@]}" >&2 </dev/null
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        say "cargo is missing: install Rust from https://rustup.rs"
        exit 1
    fi
    local have want=1.94
    have=$(cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$want" "$have" | sort -V | head -n 1) != "$want" ]]; then
        say "cargo $have is older than $want: install Rust from https://rustup.rs"
        exit 1
    fi
    say "everything is installed"
}

main "$@"
