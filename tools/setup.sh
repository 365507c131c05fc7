#!/bin/sh
# Create .venv and install one of the lock files requirements/*.txt into it. Run by `make setup`.
# usage: tools/setup.sh cpu|cuda|none PYTHON
set -eu
extra=$1 python=$2 log=.venv-setup.log
lock=requirements/$extra.txt

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

run() { # append the output of a command to the log; show the end of the log when the command fails
    echo "\$ $*" >>$log
    "$@" >>$log 2>&1 </dev/null || { tail -n 30 $log >&2; fail "" "The set-up failed. The complete log: $log" \
        "Rerun the command to continue. It needs the package index and about 5 GB of disk, more for CUDA."; }
}

"$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null ||
    fail "$python cannot be used: srlm needs Python 3.11 to 3.14 with the modules venv and ensurepip." \
        "Name another Python (make setup PYTHON=python3.12), or install the modules (Debian: apt install python3-venv)."

: >$log
echo "Installing $lock into .venv; this takes a few minutes the first time. Log: $log"
# vLLM's builds for CPUs and CUDA both bring a module named vllm, so another extra gets a new environment.
if [ "$(cat .venv/extra 2>/dev/null)" != "$extra" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    run "$python" -m venv --clear .venv
    echo "$extra" >.venv/extra
fi
# Python compiles the modules that are used when they are first imported; compiling all of them takes long.
unset PYTHONDONTWRITEBYTECODE
pip() { run .venv/bin/python -m pip install --no-deps --no-compile "$@"; }

torch=$(sed -n 's/^torch==\([0-9.]*\).*/torch==\1/p' "$lock")
if [ "$extra" != cuda ] && [ "$(uname -s)" = Linux ] && ! .venv/bin/python -m pip install --no-deps --no-compile "$torch+cpu" >>$log 2>&1; then
    # The plain build for Linux is the CUDA one. uv finds the CPU build where the index of pip lacks it.
    pip uv
    run .venv/bin/python -m uv pip install --python .venv/bin/python --no-deps --torch-backend cpu "$torch"
fi
pip -r "$lock" -e .
run .venv/bin/python -c "import srlm.training.worker, srlm.engines.transformers, trl.trainer.dpo_trainer, trl.trainer.sft_trainer"
touch ".venv/complete-$extra"
echo "Done. Activate the environment with: . .venv/bin/activate"
