// The agent: wires control stream, report stream and ranks to the pure core, on one thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/agent/assignments.h"
#include "worker/agent/control_stream.h"
#include "worker/agent/coordinator_link.h"
#include "worker/agent/cpu_placement.h"
#include "worker/agent/disk_monitor.h"
#include "worker/agent/gpu_monitor.h"
#include "worker/agent/rank.h"
#include "worker/agent/report_stream.h"
#include "worker/agent/slot_health.h"

namespace ham::agent {

// What an agent is made of.
struct AgentConfig {
  ConnectionConfig connection;
  std::string worker_id;
  int64_t incarnation_number = 0;  // of this process, see RegisterWorker
  std::string name;
  std::string state_dir;  // held by a StateDirectory; STATE_DIR/work is empty
  std::string trainer;    // of CPU slots
  std::string data_root;
  std::string data_interface;
  std::vector<ham::v1::Slot> slots;
  std::vector<CpuSet> cpu_shares;  // see RankHost
  std::vector<ham::v1::DataSet> data_sets;
  AssignmentOptions assignments;
  ControlOptions control;
  Backoff::Options backoff;  // of reports and transfers
  SilenceOptions silence;
  GpuMonitorOptions gpu_monitor;
  absl::Duration give_up_after = absl::InfiniteDuration();  // without contact and without a process of a rank
};

class Agent {
 public:
  // Starts at once. `ended` is called once, on a thread of the agent: OK after Stop, or why it cannot go on. No trainer
  // is left then.
  Agent(AgentConfig config, std::function<void(const absl::Status&)> ended);
  // Stops without grace if it has not ended.
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Stops the trainers (TERM, grace, KILL), sends what can be sent within 2 s, and ends. A second call kills at once.
  // Any thread; does not block.
  void Stop();

  // Calls back on the agent's thread once that has done what waits before it, so never while it is stuck. Any thread.
  void WhenAlive(std::function<void()> alive) { Post(std::move(alive)); }

 private:
  using Task = std::function<void()>;

  void Post(Task task);
  void Run();
  // Runs what is queued, waiting for it until `deadline`.
  void RunTasks(absl::Duration deadline);
  void Act();
  void Start(const ham::v1::Assignment& assignment);
  absl::Status TryStart(const ham::v1::Assignment& assignment);
  void RankExited(const RankId& id, const ham::v1::RankExit& exit);
  void Forget(const RankId& id);
  void SendBeat();
  // Of its slots, as they are now; says what has come and gone.
  void LookAtSlots();
  void GiveUpIfAlone();
  void BeginStop();
  bool Finished() const;

  void Opening(int64_t stream);
  void Connected(int64_t stream, size_t endpoint, const ham::v1::Welcome& welcome);
  void Desired(int64_t stream, const ham::v1::DesiredAssignments& desired);
  void Closed(int64_t stream);

  absl::Duration Now() const { return absl::FromChrono(std::chrono::steady_clock::now() - origin_); }
  std::string DirectoryOf(const RankId& id) const;

  const AgentConfig config_;
  const std::function<void(const absl::Status&)> ended_;
  const std::string incarnation_;
  const std::chrono::steady_clock::time_point origin_ = std::chrono::steady_clock::now();
  CoordinatorLink link_;
  std::unique_ptr<TrainerLauncher> launcher_;
  RankHost host_;
  GpuMonitor gpu_monitor_;
  DiskMonitor disk_monitor_;

  // thread_ only.
  Assignments core_;
  std::map<RankId, std::unique_ptr<Rank>> ranks_;    // with a process, or about to have one
  std::map<RankId, std::shared_ptr<Spool>> spools_;  // until forgotten
  std::string cluster_id_;
  int64_t stream_ = 0;           // newest
  bool connected_ = false;       // its Welcome came
  absl::Duration contact_lost_;  // unless connected_
  int64_t desired_version_ = 0;  // of this stream
  absl::Duration heartbeat_ = absl::Seconds(1);
  absl::Duration next_beat_;
  bool beat_due_ = false;
  bool stopping_ = false;
  DiskHealth disk_;
  std::vector<ham::v1::SlotProblem> problems_;  // as of the last look
  absl::Status fatal_;
  std::unique_ptr<ReportStream> reports_;
  std::unique_ptr<ControlStream> control_;

  absl::Mutex mutex_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // nothing is queued any more
  std::thread thread_;
};

}  // namespace ham::agent
