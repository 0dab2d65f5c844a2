#!/bin/bash
#SBATCH --job-name=taskarith
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120

# sbatch slurm.sh MODEL DATA OUTPUT; the output is on a file system that all nodes share.
set -euo pipefail

model=$1 data=$2 output=$3
folder=${SLURM_SUBMIT_DIR:-.}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))

# One launcher a node; --kill-on-bad-exit ends all of them when one ends. $SLURM_NODEID is another one in each.
srun --kill-on-bad-exit=1 bash -c "accelerate launch \
    --config_file '$folder/two_hosts.yaml' \
    --num_machines $SLURM_NNODES --num_processes $processes --machine_rank \$SLURM_NODEID \
    --main_process_ip $head --main_process_port 29500 \
    -m taskarith finetune '$model' --data '$data' -o '$output' --save-steps 100 --resume"
