# The checks, run by init.sh inside the virtual machine. Each is a function; its comment states the requirement.
# A check prints its result as its last line, or the reason of its failure.

camera=/dev/video0
# Driver and device in sysfs: unbinding has the same effect as unplugging.
driver=/sys/bus/platform/drivers/vivid
device=vivid.0
passed=0
failed=0

# Helper functions.

control() { v4l2-ctl -d "${2:-$camera}" -c "$1"; }
uptime_now() { read -r now _ </proc/uptime && echo "$now"; }

wrong() {
    # On one line, because it is shown as the reason.
    echo "$*" | tr '\n\t' '; '
    echo
    exit 1
}

# within SECONDS COMMAND…: repeats the command until it succeeds.
within() {
    local until=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $until ] || return 1
        sleep 0.1
    done
}

says() { grep -q -- "$1" "$2"; }

# expect TEXT FILE: fails unless the file contains the text.
expect() { says "$1" "$2" || wrong "'$1' is not in: $(tail -n 5 "$2")"; }

# fails FILE COMMAND…: requires that the command ends with exit code 1, and writes its output to FILE.
fails() {
    local out=$1 code=0
    shift
    timeout 30 "$@" >"$out" 2>&1 || code=$?
    [ $code -eq 1 ] || wrong "exit code $code instead of 1: $(tail -n 5 "$out")"
}

# one SOURCE DIR [SIZE]: stores one keyframe from SOURCE in DIR.
one() {
    local source=$1 out=$2 size=${3:-320x180}
    mkdir -p "$out"
    timeout 60 orion-peer demo --source "$source" --count 1 --size "$size" --format h264,y4m --out "$out" \
        >"$out.log" 2>&1 || wrong "demo --source $source: $(tail -n 5 "$out.log")"
}

# Mean of the bytes on stdin.
mean() { od -An -v -tu1 -w1 | awk '{ sum += $1 } END { printf "%.0f", sum / NR }'; }

# Means of Y, U and V of a y4m picture of 320x180.
levels() {
    tail -c 86400 "$1" | head -c 57600 | mean
    echo -n ' '
    tail -c 28800 "$1" | head -c 14400 | mean
    echo -n ' '
    tail -c 14400 "$1" | mean
}

# shows FILE Y U V: requires that the picture has this color, with a tolerance of 3.
shows() {
    levels "$1" | awk -v y="$2" -v u="$3" -v v="$4" '
        function off(a, b) { return a > b ? a - b : b - a }
        { exit off($1, y) > 3 || off($2, u) > 3 || off($3, v) > 3 }' ||
        wrong "$1 has the color $(levels "$1") instead of $2 $3 $4"
}

# Pure red and blue in BT.601, limited range.
red() { control test_pattern=7,osd_text_mode=2 && red='81 90 240'; }
blue() { control test_pattern=9,osd_text_mode=2 && blue='41 240 110'; }

# Resets the driver to its state after boot.
replug() {
    [ ! -e $driver/$device ] || echo $device >$driver/unbind
    echo $device >$driver/bind
    within 5 test -e "${1:-$camera}"
}

# start_pipeline DIR FLAG…: starts a server, a receiver and a sender with these flags; they end with the check.
start_pipeline() {
    mkdir -p "$1"
    orion-peer serve >"$1/serve.log" 2>&1 &
    serve=$!
    within 20 says 'listening\|server' "$1/serve.log" || wrong "serve does not start: $(cat "$1/serve.log")"
    orion-peer recv --out "$1/frames" --format h264,y4m --timeout 60s >"$1/recv.log" 2>&1 &
    recv=$!
    local out=$1
    shift
    orion-peer send --source camera "$@" >>"$out/send.log" 2>&1 &
    send=$!
    at_exit "$send $recv $serve"
}

# at_exit PIDS: kills these processes at the end of the check, and keeps its exit code.
at_exit() {
    trap "code=\$?; set +e; kill $1 2>/dev/null; wait; exit \$code" EXIT
}

received() { cat "$1/frames/frames.jsonl" 2>/dev/null | wc -l; }
has_received() { [ "$(received "$1")" -ge "$2" ]; }

# more_keyframes DIR: waits for three more keyframes.
more_keyframes() {
    within 30 has_received "$1" $(($(received "$1") + 3)) ||
        wrong "no more keyframes: $(tail -n 5 "$1/send.log")"
}

# field NAME FILE: prints the numbers with this name, one per line.
field() { sed -n "s/.*\"$1\":\([0-9.]*\)[,}].*/\1/p" "$2"; }

# The checks.

# One camera is listed with its formats; its metadata node is not a camera. Listing does not change the camera.
listed() {
    [ -e /dev/video1 ] || wrong 'the driver created no metadata node'
    v4l2-ctl -d $camera --set-fmt-video=width=640,height=480,pixelformat=UYVY
    local before after
    before=$(v4l2-ctl -d $camera --get-fmt-video --get-parm)
    orion-peer devices >devices.txt 2>&1 || wrong "$(cat devices.txt)"
    after=$(v4l2-ctl -d $camera --get-fmt-video --get-parm)
    [ "$before" = "$after" ] || wrong "devices changed the camera: $after"
    expect '^camera:0  vivid  /dev/video0$' devices.txt
    [ "$(grep -c '^camera:' devices.txt)" -eq 1 ] || wrong "more than one camera: $(cat devices.txt)"
    expect '^    1280x720   YUYV  12.5, 10, 5, 4, 2, 1 fps$' devices.txt
    expect '^    1280x720   NV12  12.5, 10, 5, 4, 2, 1 fps$' devices.txt
    expect '^    default: 1280x720 YUYV at 12.5 fps$' devices.txt
    orion-peer devices --json >devices.json
    [ "$(wc -l <devices.json)" -eq 1 ] || wrong "not one line of JSON: $(cat devices.json)"
    expect '"bus":"platform:vivid-000"' devices.json
    echo "$(grep -c ' fps$' devices.txt) sizes and pixel formats"
}

# The nearest size, the best pixel format and a rate near 30 are chosen, and another pixel format on request.
chosen() {
    one camera chosen/near && expect 'camera 0 (vivid), 320x180 YUYV at 30 fps' chosen/near.log
    one camera:0 chosen/large 1024x600 &&
        expect 'camera 0 (vivid), 1280x720 YUYV at 12.5 fps' chosen/large.log
    one camera:0:nv12 chosen/nv12 && expect '320x180 NV12 at 30 fps' chosen/nv12.log
    fails chosen/none.log orion-peer demo --source camera:0:MJPG
    expect 'source: camera 0 does not offer MJPG' chosen/none.log
    fails chosen/other.log orion-peer demo --source camera:7
    expect 'source: no camera with index 7' chosen/other.log
    echo '320x180 at 30 fps, 1280x720 at 12.5 fps'
}

# Pictures have the true colors in every pixel format.
colours() {
    local pixels
    red
    for pixels in YUYV NV12 YU12 RGB3 BGR3; do
        one camera:0:$pixels colours/red-$pixels
        shows colours/red-$pixels/000001.y4m $red
    done
    one camera:0:GREY colours/grey
    # The luma of red in Rec. 709, which the driver uses for GREY.
    shows colours/grey/000001.y4m 62 128 128
    blue
    for pixels in YUYV NV12; do
        one camera:0:$pixels colours/blue-$pixels
        shows colours/blue-$pixels/000001.y4m $blue
    done
    echo "red is $(levels colours/red-YUYV/000001.y4m) from YUYV, $(levels colours/red-NV12/000001.y4m) from NV12"
}

# Pixel formats, sizes and intervals set by another program have no effect.
odd_state() {
    local state
    red
    for state in pixelformat=UYVY pixelformat=HM12 width=3840,height=2160,pixelformat=GREY; do
        v4l2-ctl -d $camera --set-fmt-video=$state --set-parm=12.5
        one camera odd/$state
        shows odd/$state/000001.y4m $red
    done
    echo 'UYVY, HM12, 3840x2160 GREY, each with 2/25 s'
}

# Pictures of 1280x720 arrive through serve, send and recv.
whole() {
    control test_pattern=1
    start_pipeline whole --size 1280x720 --count 2 --interval 1s
    wait $send || wrong "send: $(tail -n 5 whole/send.log)"
    within 10 has_received whole 2 || wrong "recv: $(tail -n 5 whole/recv.log)"
    expect '"width":1280,"height":720' whole/frames/frames.jsonl
    [ "$(grep -c '"verified":true' whole/frames/frames.jsonl)" -ge 2 ] || wrong 'not verified'
    echo "latency $(field latencyMs whole/frames/frames.jsonl | tr '\n' ' ')ms, $(field bytes whole/frames/frames.jsonl | tr '\n' ' ')bytes"
}

# Changes the brightness every quarter second, and prints each value with the start and end of the change.
flicker() {
    local level=128 from
    while :; do
        from=$(uptime_now)
        control brightness=$level
        echo "$((level - 112)) $from $(uptime_now)"
        level=$((level < 252 ? level + 4 : 128))
        sleep 0.2
    done
}

# Wall-clock time of the boot, with an accuracy of about 20 ms.
boot_time() {
    local second
    second=$(date +%s)
    while [ "$(date +%s)" -eq "$second" ]; do :; done
    awk -v s=$((second + 1)) '{ printf "%.2f", s - $1 }' /proc/uptime
}

# off BOOT SET PICTURES: prints for each picture (brightness, capture time) the minimum difference in ms between its
# capture time and the time at which the camera can have captured its brightness.
off() {
    awk -v boot="$1" '
        # The brightness values, and the time spans in which they can have been captured.
        FNR == NR { level[FNR] = $1; from[FNR] = $2 + boot; until[FNR - 1] = $3 + boot; n = FNR; next }
        {
            best = 99999
            for (i = 1; i < n; i++) {
                if (level[i] != $1) continue
                away = from[i] > $2 ? from[i] - $2 : ($2 > until[i] ? $2 - until[i] : 0)
                if (away * 1000 < best) best = away * 1000
            }
            printf "%d\n", best
        }' "$2" "$3"
}

# most LIMIT FILE: succeeds if four of the five numbers are within the limit; one picture may have been delayed,
# because the machine is slow.
most() { awk -v limit="$1" '$1 <= limit { n++ } END { exit n < 4 }' "$2"; }

# After 3.5 s without a request for a picture, the sent picture is current: the encoder gets it at most 200 ms after
# its capture time. The capture time is true, because the picture has the brightness that was set then.
fresh() {
    control test_pattern=5,osd_text_mode=2
    local boot frames=fresh/frames/frames.jsonl picture
    boot=$(boot_time)
    mkdir -p fresh
    flicker >fresh/set &
    local flicker=$!
    start_pipeline fresh --size 320x180 --interval 3.5s --count 6 --json
    at_exit "$flicker $send $recv $serve"
    wait $send || wrong "send: $(tail -n 5 fresh/send.log)"
    within 10 has_received fresh 6 || wrong "recv: $(tail -n 5 fresh/recv.log)"
    kill $flicker
    # The first picture is sent on connection, not after a pause.
    for picture in fresh/frames/00000[2-6].y4m; do
        tail -c 70000 "$picture" | head -c 1000 | mean
        echo
    done >fresh/luma
    field captureTime $frames | tail -n +2 | paste fresh/luma - >fresh/pictures
    off "$boot" fresh/set fresh/pictures >fresh/off
    grep '"kind":"keyframe"' fresh/send.log >fresh/sent
    field captureAge fresh/sent | tail -n +2 | awk '{ printf "%.0f\n", $1 }' >fresh/ages
    cat fresh/set fresh/pictures
    local ages off latency
    ages=$(tr '\n' ' ' <fresh/ages)
    off=$(tr '\n' ' ' <fresh/off)
    latency=$(field latencyMs $frames | tail -n +2 | cut -d . -f 1 | tr '\n' ' ')
    most 200 fresh/ages || wrong "the age of pictures at the encoder is $ages ms"
    most 100 fresh/off || wrong "the capture times are off by at least $off ms"
    echo "age at the encoder $ages ms; capture time off by at least $off ms; capture to arrival $latency ms"
}

# begin FAULT: starts the next fault, and moves the output of the sender so far to another file.
begin() {
    echo "-- $1" >>all
    cat recovery/send.log >>all
    : >recovery/send.log
    fault=$1
}

# reports TEXT: waits until the sender prints this, at most 20 s.
reports() {
    within 20 says "$1" recovery/send.log ||
        wrong "$fault: the sender does not report '$1': $(tail -n 5 recovery/send.log)"
}

# One sender and one receiver through all faults of a camera; keyframes resume after each.
recovery() {
    start_pipeline recovery --size 320x180 --interval 500ms
    more_keyframes recovery

    begin 'no frames'
    control percentage_of_dropped_buffers=100
    reports 'camera 0 delivers no frames'
    control percentage_of_dropped_buffers=0
    reports 'source: back after'
    more_keyframes recovery

    begin 'streaming error'
    control inject_fatal_streaming_error=1
    more_keyframes recovery
    begin 'damaged buffer'
    control inject_v4l2_buf_flag_error=1
    more_keyframes recovery

    begin unplugged
    echo $device >$driver/unbind
    reports 'camera 0 is gone; trying again: plug it in again'
    sleep 3
    begin 'plugged in again'
    echo $device >$driver/bind
    reports 'source: back after'
    more_keyframes recovery

    # This fault of the driver ends as soon as the camera is closed.
    begin 'disconnected by its driver'
    control disconnect=1
    more_keyframes recovery

    # A process keeps the old device open: the camera returns with another number.
    begin 'unplugged, its number in use'
    exec 9<$camera
    echo $device >$driver/unbind
    reports 'camera 0 is gone'
    begin 'plugged in with another number'
    echo $device >$driver/bind
    reports 'source: back after'
    more_keyframes recovery
    exec 9<&-
    orion-peer devices | grep '^camera:' >recovery/devices
    says '^camera:[1-9]' recovery/devices || wrong "its number did not change: $(cat recovery/devices)"

    kill -INT $send
    within 10 gone $send || wrong 'send does not end'
    begin 'the end'
    [ "$(grep -c '"verified":true' recovery/frames/frames.jsonl)" -eq "$(received recovery)" ] ||
        wrong 'a keyframe was not verified'
    echo "$(received recovery) keyframes; back after $(sed -n 's/.*source: back after //p' all | tr '\n' ' ')"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# A camera that hangs from the start, or later, does not make the program hang.
stuck() {
    control percentage_of_dropped_buffers=100
    fails stuck.log orion-peer demo --source camera
    expect 'source: camera 0 delivers no frames (waited 5 s)' stuck.log
    orion-peer send --source camera >interrupted.log 2>&1 &
    local send=$!
    sleep 2
    kill -INT $send
    within 10 gone $send || wrong 'Ctrl-C does not end send while it waits for its first frame'
    if says 'delivers no frames' interrupted.log; then wrong 'send ended, but not because of Ctrl-C'; fi
    control percentage_of_dropped_buffers=0

    start_pipeline stuck --size 320x180 --interval 500ms --duration 6s
    more_keyframes stuck
    control percentage_of_dropped_buffers=100
    within 15 gone $send || wrong '--duration does not end send while the camera hangs'
    control percentage_of_dropped_buffers=0
    echo 'reported after 5 s; Ctrl-C and --duration end it'
}

# A camera in use is reported with the process that uses it, and still listed with its formats.
busy() {
    v4l2-ctl -d $camera --stream-mmap --stream-count=100000 >/dev/null 2>&1 &
    local user=$!
    sleep 1
    fails busy.log orion-peer demo --source camera
    expect "source: camera 0 is busy: v4l2-ctl (process $user) has it open" busy.log
    orion-peer devices >busy.txt
    expect "^    open in v4l2-ctl (process $user)$" busy.txt
    expect '^    1280x720   YUYV' busy.txt
    kill $user
    wait $user || true
    one camera busy-after
    sed -n 's/.*error: *//p' busy.log | head -n 1
}

# A user without permission to open the camera gets an error.
forbidden() {
    su nobody -s /bin/sh -c 'orion-peer devices' >forbidden.txt 2>&1 || wrong "$(cat forbidden.txt)"
    expect '^    no permission to open camera 0$' forbidden.txt
    su nobody -s /bin/sh -c 'cd /tmp/nobody && orion-peer demo --source camera' >forbidden.log 2>&1 &&
        wrong 'the camera was opened'
    expect 'source: no permission to open camera 0' forbidden.log
    expect 'group `video`' forbidden.log
}

# Failures of the driver when the stream starts are reported.
driver_errors() {
    control inject_vidioc_reqbufs_error=1
    fails reqbufs.log orion-peer demo --source camera
    expect 'source: camera 0 failed: VIDIOC_REQBUFS' reqbufs.log
    control inject_vidioc_streamon_error=1
    fails streamon.log orion-peer demo --source camera
    expect 'source: camera 0 failed: VIDIOC_STREAMON' streamon.log
    one camera driver-after
    sed -n 's/.*error: *//p' streamon.log | head -n 1
}

# Without a camera none is listed, `send` reports an error, and `demo` sends the test pattern.
no_camera() {
    echo $device >$driver/unbind
    orion-peer devices >none.txt 2>none.log || wrong 'devices failed without a camera'
    [ ! -s none.txt ] || wrong "listed: $(cat none.txt)"
    expect 'no camera found' none.log
    fails none.log orion-peer send --source camera
    expect 'source: no camera found' none.log
    timeout 60 orion-peer demo --count 1 --size 320x180 --out none >none.log 2>&1 || wrong "$(tail -n 5 none.log)"
    expect 'no camera found: sending the test pattern' none.log
}

# run NAME: runs the check in a separate shell, with the driver in its state after boot.
run() {
    local name=$1 started
    started=$(date +%s)
    replug
    mkdir -p "/tmp/$name" && cd "/tmp/$name" || exit 1
    # Not in the condition itself: `set -e` has no effect there.
    (set -e; "$name") >"/tmp/$name.out" 2>&1 &
    if wait $!; then
        passed=$((passed + 1))
        echo "camera: ok $name ($(($(date +%s) - started)) s): $(tail -n 1 "/tmp/$name.out")"
    else
        failed=$((failed + 1))
        echo "camera: FAILED $name: $(tail -n 1 "/tmp/$name.out")"
        # Further output for the log.
        cat "/tmp/$name.out"
        tail -n 30 "/tmp/$name"/*.log "/tmp/$name"/*/*.log 2>/dev/null
        dmesg | tail -n 5
    fi
}

mkdir -p /tmp/nobody && chmod 777 /tmp/nobody
echo 'nobody:x:65534:65534::/tmp/nobody:/bin/sh' >/etc/passwd
only=$(cat /only)
for name in ${only:-listed chosen colours odd_state whole fresh recovery stuck busy forbidden driver_errors no_camera}; do
    run "$name"
done
echo "camera: done $passed passed, $failed failed"
