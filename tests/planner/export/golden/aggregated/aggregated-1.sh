#!/usr/bin/env bash
# aggregated-1: aggregated replica, TP2 PP1, on node0, a100_sxm GPUs 2, 3
# phaseplan 0.0.0, plan sha256 <sha256>
set -euo pipefail
# shellcheck source=hosts.env
source "$(dirname -- "${BASH_SOURCE[0]}")/hosts.env"

# GPU indices as nvidia-smi shows them, in rank order.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
export CUDA_VISIBLE_DEVICES=2,3

exec vllm serve "${MODEL}" \
  --host 0.0.0.0 \
  --port 8101 \
  --served-model-name opt-13b \
  --tensor-parallel-size 2 \
  --pipeline-parallel-size 1 \
  --dtype auto \
  --block-size 16 \
  --max-model-len 2048 \
  --max-num-batched-tokens 8192 \
  --max-num-seqs 256 \
  --gpu-memory-utilization 0.9 \
  "$@"
