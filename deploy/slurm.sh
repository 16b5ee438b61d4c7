#!/usr/bin/env bash
# Pretraining on several nodes with Slurm: sbatch deploy/slurm.sh
#
# One task per GPU. srun tells each process its place, and nearkin finds the first node by itself. If a
# process is lost, the others end and name it, the job goes back into the queue, and --resume auto goes on
# from the newest checkpoint. Two minutes before the time limit Slurm sends SIGTERM, on which a checkpoint
# is written, and the job goes back into the queue as well.
#SBATCH --job-name=nearkin
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

# All nodes see the same files here; only process 0 writes the run's folder.
recipe=${RECIPE:-recipes/sce/imagenet.toml}
data=${DATA:?set DATA to the folder of the images}
out=${OUT:-runs/sce-imagenet}

# Wrong usage (exit code 2) would only fail again.
srun --kill-on-bad-exit=1 nearkin pretrain "$recipe" --data "$data" --out "$out" \
    --resume auto --workers 8 --timeout-seconds 600 && exit 0
code=$?
((code == 2)) || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
