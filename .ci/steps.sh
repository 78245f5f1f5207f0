# Functions for .ci/run and .ci/night. They run steps in the foreground or in the background, and print how
# long each step took.
logs=target/gate
mkdir -p "$logs"
times=()
declare -A beside_pids beside_started_at

# step COMMAND...: runs a command, records how long it took, and returns its exit code.
step() {
    local started_at=$SECONDS code=0
    echo "=== $* (at $SECONDS s)"
    "$@" || code=$?
    times+=("$((SECONDS - started_at)) s  $*")
    return "$code"
}

# beside NAME COMMAND...: starts a command in the background, while the next steps run. The output of the
# command goes to a log.
beside() {
    local name=$1
    shift
    echo "=== beside: $* (at $SECONDS s)"
    set -m # starts a process group, so that the command and its children can be killed together
    "$@" > "$logs/$name.log" 2>&1 &
    set +m
    beside_pids[$name]=$!
    beside_started_at[$name]=$SECONDS
}

# joined NAME...: waits for background commands and prints their output. Fails if one of the commands has
# failed.
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

# Kills the background commands when the script ends, even after a failed step.
ended() {
    local code=$?
    for pid in "${beside_pids[@]}"; do
        kill -- "-$pid" 2> /dev/null || true
        wait "$pid" || true
    done
    printf '%s\n' "--- times" "${times[@]}" "=== $([ $code = 0 ] && echo done || echo failed) ($SECONDS s)"
}
trap ended EXIT
