#!/usr/bin/env bash
# Router of 4 replicas
# phaseplan 0.0.0, plan sha256 <sha256>
set -euo pipefail
# shellcheck source=hosts.env
source "$(dirname -- "${BASH_SOURCE[0]}")/hosts.env"

exec vllm-router \
  --vllm-pd-disaggregation \
  --kv-connector nixl \
  --prefill http://"${HOST_0}":8100 \
  --prefill http://"${HOST_0}":8101 \
  --prefill-policy power_of_two \
  --decode http://"${HOST_1}":8100 \
  --decode http://"${HOST_1}":8101 \
  --decode-policy power_of_two \
  --host 0.0.0.0 \
  --port 30000 \
  --prometheus-port 28000 \
  --worker-startup-timeout-secs 1800 \
  "$@"
