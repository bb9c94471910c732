// Flags of ham-coordinator, and every limit and period of the server in one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/log.h"
#include "proto/worker_rules.h"

namespace ham::server {

// Bounds of what lies in memory and on the wire. Each states its unit, and what raising it costs.
struct Limits {
  // Requests (calls, beats, reports) that wait for the core's thread; more are refused with RESOURCE_EXHAUSTED.
  // A request is about 1 KiB, a report up to 4 MiB (the size of a message).
  size_t queued_requests = 4096;
  // Bytes of reports among them. Raising it lets a slow disk fill that much memory.
  size_t queued_bytes = 64 << 20;
  // Requests made durable by one transaction. More a transaction means fewer fsyncs and a longer first wait.
  size_t batch_requests = 512;

  // Streams of WatchJob that are open together; more are refused with RESOURCE_EXHAUSTED. Each may hold one response
  // (`watch_response_bytes`) and costs no thread.
  size_t watches = 2000;
  // Bytes of records in one response, unless a single record is larger (finding_bytes). Below the 4 MiB of a message.
  size_t watch_response_bytes = 512 << 10;
  // Newest records kept in memory for each watched job; a watcher that lags further reads the store again.
  size_t watch_ring_bytes = 1 << 20;
  // Records read from the store at a time.
  int watch_page_records = 512;
  // How long a record may wait for others before it is sent. 20 ms halves the cost of a stream and is not seen by eye.
  absl::Duration watch_batching = absl::Milliseconds(20);
  // A reader that takes nothing for so long while records wait is ended with RESOURCE_EXHAUSTED and its token.
  absl::Duration watch_stall = absl::Seconds(60);

  // Rendezvous keys of one attempt: count, and bytes of names and values together (a value is at most 64 KiB).
  size_t rendezvous_keys = 65536;
  size_t rendezvous_bytes = 64 << 20;
  // Bytes over all attempts.
  size_t rendezvous_total_bytes = 512 << 20;

  // Text of one log record, bytes; longer text becomes several records.
  size_t log_chunk_bytes = 256 << 10;
  // Bytes of one metric point; a line of log text takes the place of a larger one. A watch response must hold it.
  size_t metric_bytes = 256 << 10;
  // Bytes of one finding of an evaluation; a larger one breaks its job. A watch response must hold it: 4 MiB with what
  // wraps it.
  size_t finding_bytes = kMostFindingBytes;
  // Bytes of one artifact, as worker_service.proto says.
  int64_t artifact_bytes = int64_t{16} << 30;

  // How long the metrics of a job stay in /metrics after its end.
  absl::Duration metrics_after_end = absl::Minutes(5);
  // Time series of jobs in /metrics; what goes beyond it is left out, as what one job has beyond its own bound
  // (job_series.h). One is about 100 bytes and a microsecond of a scrape.
  size_t job_series = 40000;

  // What no job names goes this long after somebody asked for it: an upload may be followed by its commit, or go on,
  // once a network is back. What a job has named and names no more goes after the shorter time.
  absl::Duration unnamed_artifact_life = absl::Hours(24);
  absl::Duration released_artifact_life = absl::Minutes(2);
  // Between two looks for such artifacts.
  absl::Duration artifact_sweep = absl::Minutes(1);

  // Between two tries to open a failed store again.
  absl::Duration store_reopen = absl::Seconds(2);
  // What running calls get at shutdown before they are cut off.
  absl::Duration shutdown_grace = absl::Seconds(3);
};

struct ServerOptions {
  std::string state_dir;
  std::string listen = "127.0.0.1:7480";          // host:port; port 0 = any free one
  std::string metrics_listen = "127.0.0.1:7481";  // the same; "" = no /metrics
  std::vector<std::string> advertise;             // names and addresses in the certificate and in bootstrap files
  bool insecure = false;                          // plaintext; loopback addresses only
  std::string port_file;                          // "" = none
  LogFormat log_format = LogFormat::kText;
  // Silence after which a worker counts as unreachable and its ranks are placed anew. [1 s, 1 h]. Shorter finds a
  // dead host sooner and takes a paused one for dead.
  absl::Duration lease = absl::Seconds(15);
  // Between two beats of a worker; at most a third of the lease. Each beat is one small message and no write.
  absl::Duration heartbeat = absl::Seconds(1);
  // From the moment in which a rank stops to the verdict that it is stuck, where no usual silence of it is known.
  // [1 s, 1 h]. Where one is, five of those, half of this at least; ten times this for a rank that still uses the CPU
  // (rank_pulse.h).
  absl::Duration hang_bound = absl::Minutes(1);
  // From SIGTERM to SIGKILL of a trainer; long enough to save a checkpoint.
  absl::Duration terminate_grace = absl::Seconds(15);
  // Checkpoints kept a job, the newest among them; [1, 1000]. Each costs its size on disk.
  int keep_checkpoints = 2;
  int64_t artifact_quota = 0;  // bytes on disk of checkpoints, weights and records; 0 = no bound
  Limits limits;
};

enum class Command { kServe, kResetAdmin, kJoinCommand, kBackup, kRestore, kCheck, kExit };

struct CommandLine {
  Command command = Command::kServe;
  int exit_code = 0;  // with kExit: help or version was printed (0), or a flag was wrong (2, said on stderr)
  ServerOptions options;
  std::string backup;  // with kBackup and kRestore: its directory
};

// Reads the flags; prints help, version and usage errors itself.
CommandLine ParseCommandLine(int argc, const char* const* argv);

// InvalidArgument in one sentence for values that do not go together.
absl::Status CheckOptions(const ServerOptions& options);

}  // namespace ham::server
