#!/usr/bin/env bash
# Router of 2 replicas
# phaseplan 0.0.0, plan sha256 <sha256>
set -euo pipefail
# shellcheck source=hosts.env
source "$(dirname -- "${BASH_SOURCE[0]}")/hosts.env"

exec vllm-router \
  --vllm-pd-disaggregation \
  --kv-connector nixl \
  --prefill http://"${HOST_0}":8100 \
  --prefill-policy round_robin \
  --decode http://"${HOST_1}":8101 \
  --decode-policy round_robin \
  --host 0.0.0.0 \
  --port 30001 \
  --prometheus-port 28001 \
  --worker-startup-timeout-secs 1800 \
  "$@"
