#!/usr/bin/env bash
# On a machine with a GPU: are the kernels right, how fast are they, does a run learn?
#   scripts/gpu_check.sh                        all parts but plan and tune, in less than ten minutes
#   scripts/gpu_check.sh kernels step=120       some parts; =SECONDS changes the limit of one
#   scripts/gpu_check.sh plan tune=400          those two, which run by name only
# parity   the tests of kernels, on the card
# kernels  kernels beside other libraries and beside the card's own limits
# step     a training step beside models of transformers
# hybrid   a step of a hybrid of 340 M parameters by each backend: tokens/s, MFU
# train    a run on the embedded text, with FSDP and bf16, stopped by the clock
# plan     bytes and seconds of a step beside what lmtrain inspect predicts
# tune     launch parameters of kernels for this card, into tuned.json
# Results are written as they come, into $OUT or benchmarks/results/gpu-DATE. A part that fails or
# takes too long stops no other; the exit code is 1 then.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export FLA_FLASH_QLA=${FLA_FLASH_QLA:-0} # fla means fla, also where flash_qla is installed
python=$(command -v python || command -v python3)

declare -A limit=([parity]=124 [kernels]=190 [step]=50 [hybrid]=150 [train]=75 [plan]=90 [tune]=240)
parts=()
for word in "$@"; do
    name=${word%%=*}
    if [ -z "${limit[$name]:-}" ] || ! [[ $word =~ ^[a-z]+(=[1-9][0-9]*)?$ ]]; then
        echo "unknown part $word: ${!limit[*]}, or one with its seconds, like step=120" >&2
        exit 2
    fi
    parts+=("$name")
    [ "$name" = "$word" ] || limit[$name]=${word#*=}
done
[ ${#parts[@]} != 0 ] || parts=(parity kernels step hybrid train)

case $("$python" -c 'import torch; print(torch.cuda.is_available())') in
    True) ;;
    False)
        echo "There is no GPU that torch can use here, so there is nothing to check."
        exit 0
        ;;
    *)
        echo "${python:-no python} cannot import torch: say make gpu-check, or name its environment first in PATH" >&2
        exit 2
        ;;
esac
out=${OUT:-benchmarks/results/gpu-$(date +%F)}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

parity() { # what compiles for other cards, or emulates one, is tested where there is none
    local workers=()
    "$python" -c 'import xdist' 2>/dev/null && workers=(-n 12 --dist worksteal)
    "$python" -m pytest -v --maxfail=8 -p no:cacheprovider -W default "${workers[@]}" \
        tests/kernels \
        -k 'not (ahead_of_time or every_card or fits_a_card or benchmarks or machine_code or emulator)'
}

kernels() {
    "$python" -m benchmarks --seconds $((limit[kernels] - 25)) --out "$out/kernels.jsonl"
}

step() {
    local peers=true
    "$python" -c 'import lmtrain.extras as e; e.needed("transformers")' 2>/dev/null || {
        echo "without models of transformers: the version that lmtrain[hf] asks for is not here"
        peers=false
    }
    "$python" -m lmtrain bench what=step device=cuda 'lengths=[2048,16384]' "peers=$peers" \
        "out=$out/step.json"
}

hybrid() { # torch alone would take most of the time
    local backends=triton name
    for name in flash_qla fla; do
        "$python" -c "import importlib.util as i; exit(not i.find_spec('$name'))" && backends+=,$name
    done
    "$python" -m lmtrain bench what=backends "backends=[$backends]" device=cuda pattern=GGGA \
        size=340m remat=true 'lengths=[8192,32768]' repeats=5 "out=$out/hybrid.json"
}

train() { # SIGTERM lets a run save and end; only its checkpoints do not stay
    local run=$out/train code=0
    mkdir -p "$run"
    ln -sfn "$work" "$run/checkpoints"
    timeout --preserve-status --kill-after=10 $((limit[train] - 20)) "$python" -m lmtrain train \
        run.dir="$run" engine=fsdp_bf16 engine.device=cuda model=hybrid_3to1 model/size=160m \
        curriculum.max_length=8192 curriculum.cycle_steps=32 train.tokens_per_step=65536 \
        train.steps=100000 optim.schedule=constant optim.lr=1e-3 optim.warmup_steps=50 \
        validation.every=100 checkpoint.every=null logging.every=25 logging.report=false \
        launch.grace_seconds=8 || code=$?
    rm "$run/checkpoints"
    case $code in 0 | 137 | 143) ;; *) return "$code" ;; esac
    "$python" - "$run/metrics.jsonl" <<'PYTHON'
import json
import statistics
import sys

with open(sys.argv[1]) as file:
    whole = (line for line in file if line.endswith("\n"))
    steps = [line for line in map(json.loads, whole) if "loss" in line]
if len(steps) < 50:
    sys.exit(f"only {len(steps)} steps: too few to say whether it learns")
first, last = (statistics.mean(s["loss"] for s in part) for part in (steps[:5], steps[-20:]))
later = steps[len(steps) // 4 :]
speed = statistics.median(s["tokens_per_second"] for s in later)
shares = [s["mfu"] for s in later if s["mfu"] is not None]
mfu = f", MFU {statistics.median(shares):.1%}" if shares else ""
print(f"{len(steps)} steps: loss {first:.3f} to {last:.3f}, {speed:,.0f} tokens/s{mfu}")
sys.exit(not last < 0.8 * first)
PYTHON
}

plan() {
    "$python" -m lmtrain bench what=memory device=cuda size=340m 'presets=[transformer,mamba2,hybrid_3to1]' \
        'lengths=[16384]' repeats=3 "out=$out/memory.json"
}

tune() {
    "$python" -m benchmarks.tune --seconds $((limit[tune] - 15)) --out "$out/tuned.json"
}

export -f parity kernels step hybrid train plan tune
export python out work
failed=0 summary=()
for part in "${parts[@]}"; do
    echo "== $part, at most ${limit[$part]} s"
    began=$SECONDS code=0
    timeout --kill-after=10 "${limit[$part]}" \
        bash -c "$(declare -p limit); $part" || code=$?
    case $code in
        0) told=passed ;;
        124 | 137) told="not done in time" failed=1 ;;
        *) told="failed ($code)" failed=1 ;;
    esac
    summary+=("$(printf '%-8s %-18s %4d s' "$part" "$told" $((SECONDS - began)))")
done > >(tee -a "$out/log.txt") 2>&1
wait
printf '%s\n' "${summary[@]}" | tee -a "$out/log.txt"
exit "$failed"
