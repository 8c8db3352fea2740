#!/usr/bin/env bash
# Make or complete a virtual environment with one of the pinned stacks of requirements/:
#
#     tools/make_env.sh {onedl,upstream,classic,newest,lite} FOLDER
#
# uv does the work, and keeps what it downloads and compiles in its cache, so that a second run
# takes seconds. After an interruption run it again. Read from the environment: PYTHON, UV (another
# uv than the pinned one), MAX_JOBS (compilers at once), FORCE_CUDA=1 and TORCH_CUDA_ARCH_LIST
# (compile for GPUs that this machine does not have).
set -euo pipefail
cd "$(dirname "$0")/.."
stack=$1 venv=$2 python=${PYTHON:-python3}
settings=requirements/$stack/pyproject.toml
mmcv=$(sed -n "s/^no-binary-package = \['\(.*\)'\]/\1/p" "$settings")
uv_version=0.13.9
unfinished=$venv/mmcontainer-unfinished

fail() { echo "$*" >&2; exit 1; }

# Print what mmcv's operators are to be compiled for: 'cpu', or such as 'cuda13.0-9.0'. CUDA needs a
# GPU and a CUDA compiler of the major release of torch's own CUDA.
accelerator() {
    local gpus nvcc cuda
    cuda=$(sed -n "s/^cuda = '\(.*\)'/\1/p" "$settings")
    gpus=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
           sort -u | xargs) || true
    [ "${FORCE_CUDA:-}" != 1 ] || gpus=${TORCH_CUDA_ARCH_LIST:-${gpus:-all}}
    nvcc=$("${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" --version 2>/dev/null |
           sed -n 's/.*release \([0-9.]*\).*/\1/p') || true
    if [ -n "$gpus" ] && [ "${nvcc%%.*}" = "$cuda" ]; then
        echo "cuda$nvcc-${gpus//[ ;]/-}"
        return
    fi
    [ -z "$gpus" ] || echo "There is a GPU, but no CUDA $cuda compiler (nvcc: ${nvcc:-none}):" \
        "mmcv's operators will run on the CPU only. For the GPU install the CUDA toolkit and run" \
        '`make clean env`.' >&2
    echo cpu
}

# requires-python of the stack as two numbers of Python 3: the first that works, and the first that
# no longer does.
bounds=$(sed -n "s/^requires-python = '>=3\.\([0-9]*\),<3\.\([0-9]*\)'/\1 \2/p" "$settings")
read -r first after <<< "$bounds"
"$python" -c "import sys; sys.exit(not (3, $first) <= sys.version_info[:2] < (3, $after))" || fail \
    "$python is $("$python" --version 2>&1), but the pinned packages exist from 3.$first to before" \
    "3.$after (tested: 3.11). Name another: \`make env PYTHON=python3.11\`."

if [ -z "${UV:-}" ]; then
    UV=.uv/bin/uv
    if [ "$($UV --version 2>/dev/null | cut -d' ' -f2)" != $uv_version ]; then
        "$python" -m venv .uv || fail "$python cannot make virtual environments, see above."
        .uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
    fi
    # uv does not read pip's configuration, where the index of a mirror may stand.
    index=$(.uv/bin/python -m pip config list 2>/dev/null |
            sed -n "s/^[^=]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$index}}
fi
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}

# uv's interruption may leave half a package that counts as installed. Making the environment anew
# is a matter of seconds, since everything comes from the cache.
if [ -e "$unfinished" ]; then
    "$UV" venv --quiet --seed --clear --python "$python" "$venv"
elif ! "$venv/bin/python" -c '' 2>/dev/null; then
    "$UV" venv --quiet --seed --python "$python" "$venv"
fi

target=$(accelerator)
if [ "$target" = cpu ]; then
    export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
else
    export FORCE_CUDA=1
fi
# 2 GB of memory for each compiler.
export MAX_JOBS=${MAX_JOBS:-$("$python" -c '
import os
cores = len(os.sched_getaffinity(0))
print(max(1, min(cores, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 31)))')}

has() { "$venv/bin/python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))"; }
# Where Python may not write bytecode, libraries are then imported in half of the time.
install() {
    "$UV" pip install --compile-bytecode "${options[@]}" "$@" || fail \
        'Not complete, see above. Run it again when the cause is mended: what was downloaded is' \
        'kept. Where the compiler was killed, memory ran out: `MAX_JOBS=1 make env`.'
}

touch "$unfinished"
has torch || echo "Installing the $stack stack into $venv: 3 GB to download, 10 GB of disk."
options=(--python "$venv" --project "requirements/$stack")
if [ -z "$mmcv" ]; then  # a stack that names all that it needs
    install -r "$settings" -c requirements/runtime.txt -c requirements/dev.txt
    install --no-deps -e .
    rm "$unfinished"
    exit
fi
# The accelerator is no setting that mmcv reads: it keeps the wheels apart in uv's cache.
options+=(--config-settings-package "$mmcv:accelerator=$target")
# Take a compiled mmcv from the cache without asking the index, which may be a mirror whose answers
# uv cannot cache; the setting of the pyproject is about the usual one. The constraint, which no
# torch can meet, keeps this step from compiling.
"$UV" pip install --quiet --offline --no-deps --build-constraints <(echo 'torch<0') \
    "${options[@]}" "$(sed -n "s/^ *'\($mmcv==.*\)',\$/\1/p" "$settings")" 2> /dev/null || true
if ! has mmcv; then
    command -v "${CXX:-g++}" > /dev/null || fail 'There is no C++ compiler for mmcv:' \
        '`sudo apt-get install g++`, then run this again.'
    include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] || fail 'Python.h is missing, mmcv cannot be compiled:' \
        '`sudo apt-get install python3-dev` (python3.11-dev for python3.11), then run this again.'
    echo "Compiling mmcv for $target, once per version of torch, takes 10 min on 2 idle cores. It" \
        "is at work while \"Building $mmcv\" is the last that is shown."
fi
install -r "$settings" -r requirements/runtime.txt -r requirements/dev.txt -e .
"$venv/bin/python" -c '
import torch, mmcv.ops
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]])
assert len(mmcv.ops.nms(boxes, torch.tensor([.9, .8]), .5)[1]) == 1' || fail \
    "mmcv's compiled operators do not work, see above. Compile them again:" \
    "\`$UV cache clean $mmcv && make clean env\`."
rm "$unfinished"
