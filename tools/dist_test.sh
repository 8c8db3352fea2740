#!/usr/bin/env bash
# Evaluate on several GPUs of one machine, or of several machines:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# With several machines run it on each of them, with NNODES (how many), NODE_RANK (0, 1, ...),
# MASTER_ADDR (of machine 0) and PORT; GPUS is the number on each. Without GPUs it starts that many
# processes on the CPU. PYTHON names another Python than the active one.
set -euo pipefail

if [ $# -lt 3 ] || ! [[ ${3} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The environment that `make env` creates, unless another one is active.
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$TOOLS/../.venv/bin/python" ]; then
    PYTHON=$TOOLS/../.venv/bin/python
fi

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="${3}" \
    "$TOOLS/test.py" "${@:1:2}" --launcher pytorch "${@:4}"
