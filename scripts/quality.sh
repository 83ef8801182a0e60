#!/usr/bin/env bash
# Compares keyframes of 100 KB with x264 on free photos, 720p and 1080p: fetches the photos from Debian
# packages, prints a table in Markdown, and fails when a target is missed, or when photos or x264 are not
# available.
#
#   scripts/quality.sh [DIR]     uses your own photos in DIR instead, at least 20
#
# The packages' copyright files name photographers and licenses: CC0, CC BY, CC BY-SA and GPL. The photos
# are kept in the target directory and are not copied anywhere else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds)

# Photos with at least 1080 lines, without drawings.
photos=(
    aitzgorri_by_Aitzol_Berasategi analogpattern_by_Peter_Nerlich Bridge_by_Sander_Klootwijk
    Dragonfly_by_Bolly free_by_Peter_Nerlich friends_by_Aitzol_Berasategi
    greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi
    Picture_0B_by_freespace seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi
    umang_by_Abhishek_Mudgal Wine_by_Jakkub_Mede Infinite-Sea_by_Aury88 Kleiber_by_Lukas_Baubkus
    Aqua Blinds Garden LadyBird RainDrops Storm TwoWings Wood YellowFlower
)

fail() {
    printf 'quality: %s\n' "$*" >&2
    exit 1
}

fetch() {
    local dir=$1 work package photo found
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # Expanded now: `work` is local.
    trap "rm -rf '$work'" EXIT
    chmod 755 "$work"
    for package in "${packages[@]}"; do
        (cd "$work" && apt-get download -q "$package" >&2) ||
            fail "cannot download the photos of $package: run apt-get update, or specify a directory"
    done
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$work/files"
    done
    mkdir -p "$dir.part"
    for photo in "${photos[@]}"; do
        found=$(find "$work/files" -name "$photo.jpg" -print -quit)
        [[ -n $found ]] || fail "no photo $photo in ${packages[*]}"
        cp "$found" "$dir.part/"
    done
    rm -rf "$dir"
    mv "$dir.part" "$dir"
}

command -v ffmpeg >/dev/null 2>&1 || fail "ffmpeg is missing: run scripts/setup.sh"
# Without a pipe to `grep -q`, which may exit before ffmpeg has written everything.
encoders=$(ffmpeg -hide_banner -loglevel error -encoders)
[[ $encoders == *libx264* ]] || fail "this ffmpeg has no libx264: install Debian's ffmpeg"

dir=${1:-${CARGO_TARGET_DIR:-target}/photos}
if [[ $# -eq 0 && ! -d $dir ]]; then
    mkdir -p "$(dirname "$dir")"
    fetch "$dir"
fi
cargo bench --quiet --bench quality -- "$(realpath "$dir")"
