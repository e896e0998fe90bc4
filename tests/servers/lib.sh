# Shared by tests/run, tests/long and the scripts beside this file: where things lie, and processes that end again.
# Sourced, not run. Expects bash with `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TOOLS=$ROOT/target/tools
SERVERS=${COPAL_SERVERS:-$ROOT/target/servers}
PIDS=$SERVERS/pids

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# die_with_log TEXT LOG: as die, with what the log ends in. Who reads the output of a run elsewhere has no other way to see it.
die_with_log() {
    say "$1; $2 ends:"
    tail -n 20 "$2" >&2 || true
    exit 1
}

# free_port: a TCP port on 127.0.0.1 that nobody listens on. Drawn, not fixed, so that two work trees can test at once.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_until SECONDS COMMAND...: tries COMMAND five times a second until it succeeds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

# start_time PID: when the process started, in clock ticks since boot. Pids are reused; pid and start together are not.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    set -- ${stat##*) }
    printf '%s\n' "${20}"
}

# spawn LOG COMMAND...: starts COMMAND in the background, and records it so that end_all ends it.
spawn() {
    local log=$1
    shift
    setsid "$@" >"$log" 2>&1 </dev/null &
    printf '%s %s %s\n' "$!" "$(start_time $!)" "$(basename "$1")" >>"$PIDS"
}

# still_ours PID START: whether the recorded process still runs.
still_ours() { [ "$(start_time "$1")" = "$2" ]; }

# end_all: ends what was recorded, last started first: politely, and after ten seconds by force.
end_all() {
    [ -f "$PIDS" ] || return 0
    local pid start name
    tac "$PIDS" | while read -r pid start name; do
        still_ours "$pid" "$start" || continue
        kill "$pid" || true
        wait_until 10 gone "$pid" "$start" && continue
        say "$name ($pid) did not end when asked to, and is killed"
        kill -KILL "$pid" || true
        wait_until 10 gone "$pid" "$start" || say "$name ($pid) does not end"
    done
    rm -f "$PIDS"
}

gone() { ! still_ours "$1" "$2"; }

# with_retries COMMAND...: for what goes over a network that may fail once.
with_retries() {
    local try
    for try in 1 2 3; do
        "$@" && return
        say "try $try of 3 failed: $*"
        sleep $((try * 3))
    done
    return 1
}

# need_free_disk GIB: refuses to start what would fill the disk half way through.
need_free_disk() {
    local free
    free=$(($(df --output=avail -k "$ROOT" | tail -1) / 1024 / 1024))
    [ "$free" -ge "$1" ] || die "needs $1 GiB of free disk below $ROOT, there are $free"
}

# python_venv: the tests' own Python environment, made anew when the list of packages changed.
python_venv() {
    local venv=$ROOT/target/venv list=$ROOT/tests/requirements.txt
    if ! cmp -s "$list" "$venv/requirements.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        with_retries "$venv/bin/pip" install --quiet --requirement "$list"
        cp "$list" "$venv/requirements.txt"
    fi
}
