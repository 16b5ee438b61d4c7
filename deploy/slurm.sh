#!/usr/bin/env bash
# Pretraining on several nodes with Slurm: sbatch deploy/slurm.sh
#
# One task per GPU. srun tells each process its place, and nearkin finds the first node by itself. Two
# minutes before the time limit Slurm sends SIGTERM, on which a checkpoint is written. Then, and after a
# process was lost, the job goes back into the queue, and --resume auto continues from the newest checkpoint.
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
# How often the job may go back into the queue.
max_restarts=${MAX_RESTARTS:-20}

code=0
srun --kill-on-bad-exit=1 nearkin pretrain "$recipe" --data "$data" --out "$out" \
    --resume auto --workers 8 --timeout-seconds 600 || code=$?

# Only what another attempt can mend is tried again: not wrong usage or input (2), not a run that diverged
# or has no intact checkpoint (3), not a crash of the program (101, 134, 139).
case $code in
0) exit 0 ;;
1) reason="a process failed or was lost" ;;
129 | 130 | 138 | 140 | 143) reason="interrupted" ;;
137) reason="a process was killed" ;;
*)
    echo "not requeued: exit code $code" >&2
    exit "$code"
    ;;
esac
if ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
    echo "not requeued: $reason (exit code $code), after $max_restarts restarts" >&2
    exit "$code"
fi
echo "requeued: $reason (exit code $code)" >&2
scontrol requeue "$SLURM_JOB_ID"
exit "$code"
