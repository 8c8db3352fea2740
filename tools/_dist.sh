# Sourced by the other scripts: sets TOOLS and PYTHON.
# shellcheck shell=bash
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The environment that `make env` creates, unless another one is active.
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$TOOLS/../.venv/bin/python" ]; then
    PYTHON=$TOOLS/../.venv/bin/python
fi
PYTHON=${PYTHON:-python}

# launch GPUS TOOL [arguments]: run the tool in that many processes on this machine.
launch() {
    local gpus=$1 tool=$2 port=${PORT:-29500} rendezvous=(--standalone)  # on a free port
    if [ "${NNODES:-1}" -gt 1 ] || [ -n "${PORT:-}" ]; then
        if [ "${NODE_RANK:-0}" -eq 0 ] && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "error: port $port is in use, perhaps by another training. Name another one with" \
                 "PORT=, the same on all machines; on one machine leave it out, then a free one is taken." >&2
            exit 2
        fi
        rendezvous=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}"
                    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="$port")
    fi
    exec "$PYTHON" "$TOOLS/_torchrun.py" "${rendezvous[@]}" --nproc-per-node="$gpus" \
        "$TOOLS/$tool" "${@:3}" --launcher pytorch
}
