#!/usr/bin/env bash
# Router of 2 replicas
# phaseplan 0.0.0, plan sha256 <sha256>
set -euo pipefail
# shellcheck source=hosts.env
source "$(dirname -- "${BASH_SOURCE[0]}")/hosts.env"

exec vllm-router \
  --worker-urls http://"${HOST_0}":8100 http://"${HOST_0}":8101 \
  --policy power_of_two \
  --worker-startup-check-interval 1 \
  --host 0.0.0.0 \
  --port 30000 \
  --prometheus-port 28000 \
  --worker-startup-timeout-secs 1800 \
  "$@"
