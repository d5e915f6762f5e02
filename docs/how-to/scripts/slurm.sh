#!/bin/bash
# Train on Slurm, and go on by itself after a time limit, a preemption or a lost node:
#   sbatch docs/how-to/scripts/slurm.sh --config=kpn --workdir=/shared/runs/kpn
#SBATCH --job-name=knee_jax
#SBATCH --nodes=2
# JAX takes one GPU for each task.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is up; enough for a checkpoint.
#SBATCH --signal=TERM@120

most_restarts=20

# The tasks answer SIGTERM; this script waits for them.
trap : TERM
status=0
srun --kill-on-bad-exit=0 knee-jax train --distributed "$@" || status=$?

# 75: stopped, or another process was lost; above 128: killed. 1 is a mistake, which stays one.
if { [ "$status" -eq 75 ] || [ "$status" -gt 130 ]; } &&
    [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
