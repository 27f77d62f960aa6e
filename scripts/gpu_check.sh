#!/usr/bin/env bash
# On a machine with a GPU: parity of the operations, speed of a step, a short training run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}"
python=$(command -v python || command -v python3)

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "There is no GPU that torch can use here, so there is nothing to check."
    exit 0
fi
"$python" -m pytest -m gpu tests/kernels
if "$python" -c 'import transformers' 2>/dev/null; then
    "$python" -m lmtrain bench what=step device=cuda 'lengths=[4096,16384]'
else
    echo "transformers is not installed: the speed of a step is not compared."
fi
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
"$python" -m lmtrain train run.dir="$run" engine=fsdp_bf16 engine.device=cuda train.steps=30
