#!/bin/bash
# Grade many films as a job array on Slurm, each task one part of them:
#   sbatch --array=1-16 docs/how-to/scripts/slurm_predict.sh /shared/films --out=/shared/graded
# The task that ends last writes the table and the page. Tasks that failed are submitted again with
# the same --array, so that the number of parts stays; what is finished is not graded again.
#SBATCH --job-name=knee_jax_predict
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

if [ "${SLURM_ARRAY_TASK_MIN:-}" != 1 ] ||
    [ "${SLURM_ARRAY_TASK_MAX:-}" != "${SLURM_ARRAY_TASK_COUNT:-}" ]; then
    echo "submit it as an array of all parts: sbatch --array=1-N" >&2
    exit 1
fi
exec knee-jax predict "$@" --workers="${SLURM_CPUS_PER_TASK:-4}" \
    --shard="$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
