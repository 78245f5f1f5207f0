# Sourced by the gate and the night: steps with their times, in a row or beside each other.
logs=target/gate
mkdir -p "$logs"
times=()
declare -A beside_pids beside_began

# step COMMAND...: runs it, and prints how long it took.
step() {
    local began=$SECONDS
    echo "=== $* (at $SECONDS s)"
    "$@"
    times+=("$((SECONDS - began)) s  $*")
}

# beside NAME COMMAND...: starts it while the next steps run. Its output goes to a log.
beside() {
    local name=$1
    shift
    echo "=== beside: $* (at $SECONDS s)"
    set -m # a process group of its own, which can be ended as a whole
    "$@" > "$logs/$name.log" 2>&1 &
    set +m
    beside_pids[$name]=$!
    beside_began[$name]=$SECONDS
}

# joined NAME...: waits for what runs beside, and prints its output.
joined() {
    local name code
    for name; do
        code=0
        wait "${beside_pids[$name]}" || code=$?
        unset "beside_pids[$name]"
        echo "=== joined: $name (at $SECONDS s)"
        cat "$logs/$name.log"
        times+=("$((SECONDS - beside_began[$name])) s  $name, beside others")
        [ "$code" = 0 ] || { echo "$name: exit code $code" >&2; exit "$code"; }
    done
}

# What still runs beside ends with this script, also when a step fails.
ended() {
    local code=$?
    for pid in "${beside_pids[@]}"; do
        kill -- "-$pid" 2> /dev/null || true
        wait "$pid" || true
    done
    printf '%s\n' "--- times" "${times[@]}" "=== $([ $code = 0 ] && echo done || echo failed) ($SECONDS s)"
}
trap ended EXIT
