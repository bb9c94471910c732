#!/usr/bin/env bash
# Writes the descriptor that wire_compatibility_test holds the protocol against. Run it only for additions.
set -euo pipefail
cd "$(dirname "$0")/../../proto"
protoc -I. --descriptor_set_out=../tests/proto/ham_v1.descriptor.binpb \
  ham/v1/{job,metrics,evaluation,job_service,cluster_service,worker_service}.proto
