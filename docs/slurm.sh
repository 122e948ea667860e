#!/bin/bash
# The flattening study as an array of jobs: each makes a part of the trainings, then one command collects them.
#   sbatch docs/slurm.sh
#   sharpness figures --study flattening --data cifar10-lt --out out --runs runs     # when all have ended
# Runs and results are files in `runs`, on a disk that all nodes share: a part that was cut short goes on when it is
# given again, and a part that is done is read. Set --array to as many parts as there are GPUs to fill.
#SBATCH --job-name=sharpness
#SBATCH --array=1-60
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
DATA=${DATA:-cifar10-lt}
sharpness figures --study flattening --data "$DATA" --out out --runs runs --jobs 1 ${OPTIONS:-} \
    --cells "${SLURM_ARRAY_TASK_ID:?give this script to sbatch}/${SLURM_ARRAY_TASK_MAX:-60}"
