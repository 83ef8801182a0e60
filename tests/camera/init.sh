#!/bin/busybox sh
# First process of the virtual machine: sets up a small system, loads the camera driver, and runs the checks.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
ip link set lo up
echo "camera: booted after $(cut -d ' ' -f 1 /proc/uptime) s"
for module in /modules/*.ko; do
    case $module in
    # One webcam; 0x20001 means a video node and a metadata node, which is not a camera.
    *-vivid.ko) insmod "$module" n_devs=1 node_types=0x20001 num_inputs=1 input_types=0x0 ;;
    *) insmod "$module" ;;
    esac
done
sh /checks.sh 2>&1
poweroff -f
