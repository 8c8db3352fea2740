#!/usr/bin/env bash
# Qualify this machine: install from a folder of packages, compile mmcv, test, measure, train.
#
#     tools/gpu_check.sh [--device cpu --tiny] [--images FOLDER] [--parts PART ...] WHEELHOUSE OUT
#
# WHEELHOUSE is what tools/make_wheelhouse.py has made; no network is used. It goes into a virtual
# environment in OUT that sees the packages of PYTHON (python3), whose torch is used. '-' for
# WHEELHOUSE installs nothing and runs with PYTHON as it is. Options go to `python -m
# benchmarks.qualify`. Read from the environment: PYTHON, MAX_JOBS, TORCH_CUDA_ARCH_LIST.
set -euo pipefail
cd_back=$PWD
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac

fail() { echo "error: $*" >&2; exit 2; }
usage() {
    fail 'usage: tools/gpu_check.sh [--device cpu --tiny] [--images FOLDER] [--parts PART ...]' \
        'WHEELHOUSE OUT'
}
# The last two arguments are ours; `--parts` ends at them.
[ $# -ge 2 ] || usage
wheelhouse=${*: -2:1} out=${*: -1}
case $wheelhouse in --*) usage ;; esac
case $out in --*) usage ;; esac
options=("${@:1:$#-2}")
mkdir -p "$out"
out=$(cd "$out" && pwd)

if [ "$wheelhouse" != - ]; then
    [ -f "$wheelhouse/requirements.txt" ] || fail "$wheelhouse was not made by" \
        'tools/make_wheelhouse.py: it holds no requirements.txt.'
    wheelhouse=$(cd "$wheelhouse" && pwd)
    "$python" "$root/tools/install_wheelhouse.py" "$wheelhouse" "$out/venv" \
        2>&1 | tee "$out/install.log"
    python=$out/venv/bin/python
fi
cd "$root"
case " ${options[*]-} " in *' --images '*)  # a path from where the user stands
    for i in "${!options[@]}"; do
        if [ "${options[i]}" = --images ]; then
            options[i + 1]=$(cd "$cd_back" && cd "${options[i + 1]}" && pwd)
        fi
    done ;;
esac
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m benchmarks.qualify "$out" \
    ${options[@]+"${options[@]}"}
