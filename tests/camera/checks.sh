ls -la /dev/video* 
for d in /dev/video*; do v4l2-ctl -d $d --info | grep -A2 -i caps; done
v4l2-ctl -d /dev/video0 --list-formats-ext
v4l2-ctl -d /dev/video0 -L
date; date +%s.%N
cut -d ' ' -f 1 /proc/uptime
v4l2-ctl -d /dev/video0 -c brightness=130
cut -d ' ' -f 1 /proc/uptime
v4l2-ctl -d /dev/video0 -c brightness=135
cut -d ' ' -f 1 /proc/uptime
v4l2-ctl -d /dev/video0 -c brightness=136
cut -d ' ' -f 1 /proc/uptime
time orion-peer devices
cut -d ' ' -f 1 /proc/uptime
time orion-peer demo --source camera --count 3 --out /tmp/o --size 320x240
cat /tmp/o/frames.jsonl
cut -d ' ' -f 1 /proc/uptime
ls /sys/bus/platform/drivers/ /sys/bus/platform/drivers/vivid
echo 'camera: done 0 passed, 0 failed'
