#!/usr/bin/env bash
# decode-0: decode replica, TP4 PP1, on node1, h100_sxm GPUs 0, 1, 2, 3
# phaseplan 0.0.0, plan sha256 <sha256>
set -euo pipefail
# shellcheck source=hosts.env
source "$(dirname -- "${BASH_SOURCE[0]}")/hosts.env"

# GPU indices as nvidia-smi shows them, in rank order.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
export CUDA_VISIBLE_DEVICES=0,1,2,3
export VLLM_NIXL_SIDE_CHANNEL_HOST="${HOST_1}"
export VLLM_NIXL_SIDE_CHANNEL_PORT=5600
# UCX_NET_DEVICES is not set: the cluster file names no NICs.
# To pin those near these GPUs, export it before this script, e.g.
# UCX_NET_DEVICES=mlx5_0:1,mlx5_1:1

exec vllm serve "${MODEL}" \
  --host 0.0.0.0 \
  --port 8100 \
  --served-model-name llama-3.1-70b \
  --tensor-parallel-size 4 \
  --pipeline-parallel-size 1 \
  --dtype auto \
  --block-size 16 \
  --max-model-len 131072 \
  --max-num-batched-tokens 8192 \
  --max-num-seqs 256 \
  --gpu-memory-utilization 0.9 \
  --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer", "kv_buffer_device": "cuda", "kv_load_failure_policy": "fail", "kv_connector_extra_config": {"backends": ["UCX"]}}' \
  "$@"
