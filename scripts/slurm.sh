#!/usr/bin/env bash
# One torchrun on each node of a Slurm job, with the overrides given to this script:
#   sbatch --nodes=4 --gpus-per-node=8 scripts/slurm.sh model=hybrid_3to1 model/size=1b
#SBATCH --job-name=lmtrain
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first:29500" \
    -m lmtrain train "run.dir=runs/$SLURM_JOB_ID" "$@"
