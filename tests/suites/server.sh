# Functions of the suites that need a running `orion-peer serve`; sourced, not run.
#
# start_server FLAG…     starts it on free ports of 127.0.0.1 and waits until it listens; its first line of JSON is
#                        then in $listening, and $base is its URL
# metric NAME            prints the current value on /metrics, 0 if the metric is missing
# row NAME RESULT WORDS  adds a row to the table; a result other than `ok` is a failure
# finish                 prints the table; fails if a row failed

peer=$(realpath "${ORION_PEER:-${CARGO_TARGET_DIR:-target}/release/orion-peer}")
work=$(mktemp -d)
server=
others=()
rows=()
bad=0

cleanup() {
    local pid
    for pid in $server ${others[@]+"${others[@]}"}; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    rm -rf "$work"
}
trap cleanup EXIT

start_server() {
    if [[ ! -x $peer ]]; then
        printf 'suites: %s is missing: build the tests first\n' "$peer" >&2
        exit 1
    fi
    (cd "$work" && exec env -i HOME="$work" PATH="$PATH" "$peer" --json serve --listen 127.0.0.1:0 "$@") \
        >"$work/server.out" 2>"$work/server.err" </dev/null &
    server=$!
    local _
    for _ in $(seq 300); do
        if [[ -s $work/server.out ]]; then
            listening=$(head -n 1 "$work/server.out")
            base=http://$(jq -r .address <<<"$listening")
            return
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    printf 'suites: the server did not start\n' >&2
    cat "$work/server.err" >&2
    exit 1
}

metric() {
    curl -sS --max-time 10 "$base/metrics" | awk -v name="$1" '$1 == name { value = $2 } END { print value + 0 }'
}

row() {
    rows+=("$(printf '%-34s %-6s %s' "$1" "$2" "$3")")
    [[ $2 == ok ]] || bad=$((bad + 1))
}

finish() {
    printf '%s\n' "${rows[@]}"
    printf '%d cases, %d wrong\n' "${#rows[@]}" "$bad"
    [[ $bad -eq 0 ]]
}
