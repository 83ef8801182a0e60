#!/usr/bin/env bash
# Runs orion-peer with a V4L2 camera: Debian's kernel with its `vivid` driver, booted in QEMU. Prints one line per
# check; fails when a check fails or when not all of them complete.
#
#   tests/camera/run.sh                      uses target/release/orion-peer
#   ORION_PEER=FILE tests/camera/run.sh
#
# ONLY="busy stuck" runs only these checks; KEEP=1 keeps the log of the console; BOOT_TIMEOUT=SECONDS limits the run
# time of the machine (600).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$root/$target
binary=$(realpath "${ORION_PEER:-$target/release/orion-peer}" 2>/dev/null || true)
# The unpacked kernel, kept between runs.
cache=$target/camera-vm
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    printf 'camera test: %s\n' "$*" >&2
    exit 1
}

check_components() {
    local tool missing=()
    for tool in qemu-system-x86_64 busybox cpio v4l2-ctl strip dpkg apt-get; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [[ -x $binary ]] || fail "no binary at ${ORION_PEER:-$target/release/orion-peer}: build it with cargo test --release --no-run"
    ((${#missing[@]} == 0)) || fail "missing: ${missing[*]}; run scripts/setup.sh"
    if ldd "$(command -v busybox)" >/dev/null 2>&1; then
        fail "busybox is not statically linked: install busybox-static"
    fi
}

# Prints the newest kernel in the package lists; the *cloud* kernels have no vivid.
kernel_package() {
    apt-cache depends linux-image-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

# Unpacks the kernel, without installing it, to $cache/kernel.
fetch_kernel() {
    if compgen -G "$cache/kernel/boot/vmlinuz-*" >/dev/null; then
        return
    fi
    [[ $(dpkg --print-architecture) == amd64 ]] || fail "this test requires the architecture amd64"
    local package
    package=$(kernel_package)
    if [[ -z $package && $(id -u) -eq 0 ]]; then
        apt-get update -q >&2
        package=$(kernel_package)
    fi
    [[ -n $package ]] || fail "linux-image-amd64 is not in the package lists: run apt-get update as root, on Debian"
    printf 'camera test: fetching %s\n' "$package"
    (cd "$dir" && apt-get download -q -o APT::Sandbox::User=root "$package" >&2) ||
        fail "cannot download $package: run apt-get update, and check the network"
    mkdir -p "$cache"
    rm -rf "$cache/kernel.part" "$cache/kernel"
    dpkg -x "$dir"/linux-image-*.deb "$cache/kernel.part"
    mv "$cache/kernel.part" "$cache/kernel"
}

# Copies the camera's modules and their dependencies in load order to $1/modules/NN-NAME.ko.
copy_modules() {
    local tree=$1 version file number=10
    version=$(basename "$cache"/kernel/lib/modules/*)
    [[ -e $cache/kernel/lib/modules/$version/modules.dep ]] ||
        busybox depmod -b "$cache/kernel" "$version" ||
        fail "depmod failed on the kernel's modules"
    local base=$cache/kernel/lib/modules/$version
    mkdir -p "$tree/modules"
    # In `vivid.ko: NEEDED…`, the module that loads first is last.
    for file in $(sed -n 's|^\(.*/vivid\.ko[.a-z]*\): *\(.*\)$|\1 \2|p' "$base/modules.dep" |
        tr ' ' '\n' | tac); do
        number=$((number + 1))
        case $file in
        *.xz) xz -dc "$base/$file" >"$tree/modules/$number-$(basename "$file" .xz)" ;;
        *) cp "$base/$file" "$tree/modules/$number-$(basename "$file")" ;;
        esac
    done
    compgen -G "$tree/modules/*-vivid.ko" >/dev/null || fail "this kernel has no vivid module"
}

# Copies a program, and the libraries that `ldd` lists to the same paths.
copy_program() {
    local tree=$1 program=$2 name=$3 library
    cp "$program" "$tree/bin/$name"
    for library in $(ldd "$program" | grep -o '/[^ ]*'); do
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
    done
}

make_initramfs() {
    local tree=$dir/tree
    mkdir -p "$tree"/{bin,proc,sys,dev,tmp,etc}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    copy_program "$tree" "$(command -v v4l2-ctl)" v4l2-ctl
    copy_program "$tree" "$binary" orion-peer
    strip "$tree/bin/orion-peer"
    copy_modules "$tree"
    cp init.sh "$tree/init"
    cp checks.sh "$tree/checks.sh"
    chmod 755 "$tree/init"
    printf '%s\n' "${ONLY:-}" >"$tree/only"
    (cd "$tree" && find . | cpio -o -H newc --quiet) >"$dir/initramfs"
}

# Runs the machine; its console goes to $dir/console.log, and the results of the checks also to stdout.
boot() {
    local kernel
    kernel=$(compgen -G "$cache/kernel/boot/vmlinuz-*" | head -n 1)
    timeout --foreground "${BOOT_TIMEOUT:-600}" \
        qemu-system-x86_64 -M pc -cpu max -accel tcg,thread=multi -smp 2 -m 768 \
        -nodefaults -no-reboot -display none -serial stdio -device virtio-rng-pci \
        -kernel "$kernel" -initrd "$dir/initramfs" \
        -append 'console=ttyS0 quiet panic=-1 tsc=reliable' </dev/null 2>&1 |
        tr -d '\r' | tee "$dir/console.log" | grep --line-buffered -a '^camera: ' || true
}

keep_log() {
    mkdir -p "$cache"
    cp "$dir/console.log" "$cache/console.log"
    printf 'camera test: the console log is %s\n' "$cache/console.log" >&2
}

check_components
fetch_kernel
make_initramfs
started=$SECONDS
boot
printf 'camera: the machine ran for %d s\n' $((SECONDS - started))

log=$dir/console.log
if ! grep -aq '^camera: done ' "$log"; then
    keep_log
    tail -n 40 "$log" >&2
    fail "the machine did not complete its checks"
fi
if ! grep -aq '^camera: done [1-9][0-9]* passed, 0 failed$' "$log"; then
    keep_log
    fail "$(grep -a '^camera: FAILED' "$log" | wc -l) checks failed"
fi
if [[ -n ${KEEP:-} ]]; then keep_log; fi
