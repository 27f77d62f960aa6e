#!/usr/bin/env bash
# One torchrun on each node of a Slurm job, with the overrides given to this script:
#   sbatch --nodes=4 --gpus-per-node=8 scripts/slurm.sh model=hybrid_3to1 model/size=1b
# The run goes on by itself. When a process dies, torchrun starts all of them again (RESTARTS times).
# When the job's time is nearly up, Slurm sends USR1 to this script (B:): the processes save and
# leave, and the job is put into the queue again under its own number, which names its run folder. A
# pre-empted job gets TERM, saves too, and is put into the queue by Slurm (--requeue). Everything else
# that ends a job, such as a mistake in the overrides, ends it.
#SBATCH --job-name=lmtrain
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

grace=100 # seconds for a step and a checkpoint, of the 120 that Slurm gives
asked=
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Processes that are started again must not find the addresses of those that died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# srun passes signals on to the torchruns, and those to their processes.
srun torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --max-restarts="${RESTARTS:-3}" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    --shutdown-timeout="$((grace + 10))" \
    --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first:${PORT:-29500}" \
    -m lmtrain train "run.dir=runs/$SLURM_JOB_ID" "launch.grace_seconds=$grace" "$@" &
running=$!
trap 'asked=yes; kill -USR1 "$running" 2>/dev/null || true' USR1
trap 'kill -TERM "$running" 2>/dev/null || true' TERM # Slurm itself cancels, or pre-empts and requeues

code=0
wait "$running" || code=$? # a signal ends the wait, not what it waits for
while kill -0 "$running" 2>/dev/null; do
    code=0
    wait "$running" || code=$?
done
if [ -n "$asked" ] && [ ! -e "runs/$SLURM_JOB_ID/done" ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
