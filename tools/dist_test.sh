#!/usr/bin/env bash
# Evaluate on several GPUs of one machine, or of several machines:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# Several machines, processes on the CPU, another Python: as tools/dist_train.sh says.
set -euo pipefail

if [ $# -lt 3 ] || ! [[ ${3} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/_dist.sh"
launch "$3" test.py "$1" "$2" "${@:4}"
