#!/usr/bin/env bash
# Train on several GPUs of one machine, or of several machines:
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# With several machines run it on each of them, with NNODES (how many), NODE_RANK (0, 1, ...),
# MASTER_ADDR (of machine 0) and PORT (29500); GPUS is the number on each. Without GPUs it starts
# that many processes on the CPU. PYTHON names another Python than the active one.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ ${2} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/_dist.sh"
launch "$2" train.py "$1" "${@:3}"
