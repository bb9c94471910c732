# Sourced by scripts: a coordinator and CPU workers of one slot each on this machine, for as long as the script runs.
#   start_cluster BIN_DIR WORKERS     starts them and logs hamctl in; logs lie in $cluster_dir
#   stop_cluster                      ends all of it; call it from a trap
# hamctl is then to be called with HAM_CONFIG=$cluster_dir/config.json.

start_cluster() {
  local bin=$1 workers=$2 i
  cluster_dir=$(mktemp -d "${TMPDIR:-/tmp}/ham-cluster-XXXXXX")
  cluster_pids=()
  "$bin/ham-coordinator" --state-dir "$cluster_dir/coordinator" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
    --port-file "$cluster_dir/ports" >"$cluster_dir/coordinator.log" 2>&1 &
  cluster_pids+=($!)
  for ((i = 0; i < 300; i++)); do
    [ -e "$cluster_dir/ports" ] && break
    kill -0 "${cluster_pids[0]}" 2>/dev/null || { cat "$cluster_dir/coordinator.log" >&2; return 1; }
    read -r -t 0.1 <> <(:) || true
  done
  for ((i = 0; i < workers; i++)); do
    "$bin/ham-worker" --join "$cluster_dir/coordinator/worker-join" --name "worker-$i" --slots 1 \
      --state-dir "$cluster_dir/worker-$i" >"$cluster_dir/worker-$i.log" 2>&1 &
    cluster_pids+=($!)
  done
  export HAM_CONFIG=$cluster_dir/config.json
  "$bin/hamctl" login --bootstrap "$cluster_dir/coordinator/bootstrap"
}

# SIGTERM, and SIGKILL for what is left after 40 s, which is longer than a trainer gets.
stop_cluster() {
  local i pid alive
  [ -n "${cluster_dir:-}" ] || return 0
  for ((i = ${#cluster_pids[@]} - 1; i >= 0; i--)); do kill "${cluster_pids[i]}" 2>/dev/null || true; done
  for ((i = 0; i < 400; i++)); do
    alive=
    for pid in "${cluster_pids[@]}"; do kill -0 "$pid" 2>/dev/null && alive=1; done
    [ -n "$alive" ] || break
    read -r -t 0.1 <> <(:) || true
  done
  kill -KILL "${cluster_pids[@]}" 2>/dev/null || true
  wait "${cluster_pids[@]}" 2>/dev/null || true
  rm -rf "$cluster_dir"
  cluster_dir=
}
