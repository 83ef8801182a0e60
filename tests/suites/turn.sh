#!/usr/bin/env bash
# Tests the embedded TURN server of `orion-peer serve` with coturn's client `turnutils_uclient`: each transport, each
# rejection, and the relayed and dropped traffic according to the server's metrics.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/suites/server.sh
source tests/suites/server.sh

for program in turnutils_uclient turnutils_peer openssl curl jq; do
    if ! command -v "$program" >/dev/null; then
        printf 'turn: %s is missing: run scripts/setup.sh\n' "$program" >&2
        exit 1
    fi
done

secret=turn-secret-that-is-in-use-now-0123456789
older=turn-secret-that-was-used-before-0123456789
printf '%s\n' "$secret" >"$work/secret"
printf '%s\n' "$older" >"$work/older"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null

start_server --turn-listen 127.0.0.1:0 --turn-secret "@$work/secret" --turn-previous-secret "@$work/older" \
    --turn-tls-cert "$work/cert.pem" --turn-tls-key "$work/key.pem" --turn-tls-port 0 \
    --turn-quota 4 --turn-bandwidth 400kbit --turn-ports 50000-50199 --turn-deny-peer 127.0.0.9
port=$(jq -r .turn <<<"$listening" | sed 's/.*://')
tls_port=$(jq -r .turnTls <<<"$listening" | sed 's/.*://')

echo_port=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
turnutils_peer -L 127.0.0.1 -p "$echo_port" >/dev/null 2>&1 </dev/null &
others+=($!)

# login SECRET LIFETIME: sets user name and password of a new device each time, because the client leaves allocations
# behind.
devices=0
login() {
    devices=$((devices + 1))
    user=$(($(date +%s) + $2)):device-$devices
    password=$(printf %s "$user" | openssl dgst -sha1 -hmac "$1" -binary | base64)
}

# client PORT FLAG…: runs the client and writes its output to $work/client. After some rejections it never exits.
client() {
    local to=$1
    shift
    timeout 60 turnutils_uclient -c -v -u "$user" -w "$password" -p "$to" -e 127.0.0.1 -r "$echo_port" "$@" \
        127.0.0.1 >"$work/client" 2>&1 </dev/null || true
}

said() { grep -Eq "$1" "$work/client"; }

# relayed NAME LEAST PORT FLAG…: sends 40 packets of 200 bytes that are echoed; requires that the server counts all of
# them in each direction, and the client at least LEAST.
relayed() {
    local name=$1 least=$2 out back received
    shift 2
    out=$(metric orion_turn_bytes_to_peers_total)
    back=$(metric orion_turn_bytes_to_clients_total)
    client "$@" -n 40 -l 200 -z 5
    out=$(($(metric orion_turn_bytes_to_peers_total) - out))
    back=$(($(metric orion_turn_bytes_to_clients_total) - back))
    received=$(grep -Eo 'tot_recv_msgs=[0-9]+' "$work/client" | tail -n 1 | cut -d = -f 2)
    if ((out == 8000 && back == 8000 && ${received:-0} >= least)); then
        row "$name" ok "$received packets back, 8000 bytes counted in each direction"
    else
        row "$name" WRONG "${received:-0} packets back, $out bytes counted out and $back back"
    fi
}

# refused NAME CODE FLAG…: requires that the server counts a rejection with that code, and that nothing is relayed.
refused() {
    local name=$1 code=$2 metric before bytes
    shift 2
    metric="orion_turn_refused_total{code=\"$code\"}"
    before=$(metric "$metric")
    bytes=$(metric orion_turn_bytes_to_peers_total)
    client "$port" -n 5 "$@"
    if (($(metric "$metric") > before)) && (($(metric orion_turn_bytes_to_peers_total) == bytes)); then
        row "$name" ok "$code, nothing relayed"
    else
        row "$name" WRONG "no $code: $(tail -n 1 "$work/client")"
    fi
}

login "$secret" 600
relayed 'udp, channels' 40 "$port"
addresses=$(grep -Eo 'relay addr: 127.0.0.1:[0-9]+' "$work/client" | grep -Eo '[0-9]+$' | sort -u)
outside=$(awk '$1 < 50000 || $1 > 50199' <<<"$addresses")
if [[ -n $addresses && -z $outside ]]; then
    row 'relay ports' ok 'all in 50000-50199'
else
    row 'relay ports' WRONG "outside of 50000-50199: ${outside:-no port was found}"
fi
login "$secret" 600
relayed 'udp, indications' 40 "$port" -s
login "$secret" 600
relayed 'tcp, channels' 40 "$port" -t
login "$secret" 600
relayed 'tcp, indications' 40 "$port" -t -s
# Over TLS the client reads only the first message of a record; the server puts waiting packets into one record.
login "$secret" 600
relayed 'tls, channels' 20 "$tls_port" -t -S
login "$secret" 600
relayed 'tls, indications' 20 "$tls_port" -t -S -s
login "$older" 600
relayed 'udp, previous secret' 40 "$port"

login "$secret" 600
password=guess
refused 'wrong password' 401
login another-secret 600
refused 'unknown secret' 401
login "$secret" -5
refused 'expired credentials' 401
user=phone
password=phone
refused 'user name without an expiry' 401
login "$secret" 600
refused 'quota' 486 -m 12
login "$secret" 600
refused 'denied peer' 403 -e 127.0.0.9

login "$secret" 600
# The limit is 50 kB/s with a burst of one second: most of 200 kB in a fraction of a second is dropped, not queued.
metric='orion_turn_dropped_packets_total{reason="bandwidth"}'
before=$(metric "$metric")
bytes=$(metric orion_turn_bytes_to_peers_total)
client "$port" -n 200 -l 1000 -z 1
dropped=$(($(metric "$metric") - before))
bytes=$(($(metric orion_turn_bytes_to_peers_total) - bytes))
if ((dropped > 0 && bytes >= 45000 && bytes < 200000)); then
    row 'bandwidth' ok "$dropped packets dropped, $bytes bytes relayed"
else
    row 'bandwidth' WRONG "$dropped packets dropped, $bytes bytes relayed"
fi

if (($(metric orion_turn_allocations) < 40)); then
    row 'metrics' ok "$(metric orion_turn_allocations_total) allocations in total"
fi
finish
