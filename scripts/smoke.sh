#!/usr/bin/env bash
# Thirty steps of a stack of all mixers, its rows held by 1, 2 and 4 processes: the same losses.
# Rows of 2,048 tokens, so that pieces of 1,024 and 2,048 cross from process to process. A checkpoint
# of 2 processes goes on with 4. Usage: scripts/smoke.sh [overrides of lmtrain train]
set -euo pipefail
cd "$(dirname "$0")/.."
runs=runs/smoke
rm -rf "$runs"

train() { # folder, processes that share every row, steps, more overrides
  lmtrain train run.dir="$runs/$1" launch.nproc="$2" parallel.sequence="$2" train.steps="$3" \
    model.pattern=GWMA curriculum.cycle_steps=10 curriculum.max_length=2048 train.accumulate=2 \
    optim.lr=1e-3 optim.schedule=constant optim.warmup_steps=10 \
    validation.every=null validation.tokens=16384 samples.count=1 samples.tokens=16 "${@:4}"
}

train p1 1 30 "$@"
train p2 2 15 "$@"
cp -r "$runs/p2" "$runs/p2-to-p4"
train p2 2 30 "$@"
train p2-to-p4 4 30 "$@"
train p4 4 30 "$@"
python scripts/compare_runs.py 1e-4 "$runs/p1" "$runs/p2" "$runs/p4" "$runs/p2-to-p4"
lmtrain generate checkpoint="$runs/p2-to-p4" tokens=16
