# Sourced by .ci/run and .ci/night: runs steps one after the other or in the background, and prints their
# durations.
logs=target/gate
mkdir -p "$logs"
times=()
declare -A beside_pids beside_started_at

# step COMMAND...: runs a command, records its duration, and returns its exit code.
step() {
    local started_at=$SECONDS code=0
    echo "=== $* (at $SECONDS s)"
    "$@" || code=$?
    times+=("$((SECONDS - started_at)) s  $*")
    return "$code"
}

# beside NAME COMMAND...: runs a command in the background of the next steps, with its output in a log.
beside() {
    local name=$1
    shift
    echo "=== beside: $* (at $SECONDS s)"
    set -m # starts a process group, which can be killed as a whole
    "$@" > "$logs/$name.log" 2>&1 &
    set +m
    beside_pids[$name]=$!
    beside_started_at[$name]=$SECONDS
}

# joined NAME...: waits for commands in the background, and prints their output.
joined() {
    local name code
    for name; do
        code=0
        wait "${beside_pids[$name]}" || code=$?
        unset "beside_pids[$name]"
        echo "=== joined: $name (at $SECONDS s)"
        cat "$logs/$name.log"
        times+=("$((SECONDS - beside_started_at[$name])) s  $name, in the background")
        [ "$code" = 0 ] || { echo "$name: exit code $code" >&2; exit "$code"; }
    done
}

# Kills commands in the background when the script ends, also if a step has failed.
ended() {
    local code=$?
    for pid in "${beside_pids[@]}"; do
        kill -- "-$pid" 2> /dev/null || true
        wait "$pid" || true
    done
    printf '%s\n' "--- times" "${times[@]}" "=== $([ $code = 0 ] && echo done || echo failed) ($SECONDS s)"
}
trap ended EXIT
