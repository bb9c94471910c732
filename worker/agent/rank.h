// One rank on this worker: brings its checkpoint or weights, runs its trainer, and carries what the trainer says to the
// spool and to the coordinator.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"
#include "worker/agent/artifact_transfer.h"
#include "worker/agent/assignments.h"
#include "worker/agent/checkpoint_uploader.h"
#include "worker/agent/coordinator_link.h"
#include "worker/agent/cpu_placement.h"
#include "worker/agent/rank_exit.h"
#include "worker/agent/rendezvous_relay.h"
#include "worker/agent/silence_watch.h"
#include "worker/agent/spool.h"
#include "worker/agent/thread_report.h"
#include "worker/agent/trainer_frames.h"
#include "worker/agent/trainer_process.h"

namespace ham::agent {

// A trainer that says nothing new for `limit` is looked at from outside (silence_watch.h); what is seen goes to its
// log.
struct SilenceOptions {
  absl::Duration limit = absl::Seconds(20);
  StackReader stacks;
};

// The same for all ranks of an agent.
struct RankHost {
  const CoordinatorLink* link = nullptr;  // outlives the ranks
  TrainerLauncher* launcher = nullptr;    // the same
  std::string trainer;                    // program of CPU slots; see TrainerOf
  std::string data_root;
  std::string data_interface;
  std::vector<CpuSet> cpu_shares;                   // of CPU slots, by index; none: the kernel chooses
  absl::Duration hello_timeout = absl::Minutes(1);  // from the start of the process to its first frame
  absl::Duration exit_timeout = absl::Seconds(10);  // from the last frame to the end of the process
  SilenceOptions silence;
  Backoff::Options backoff;  // of transfers
};

// Owned by the agent's thread, which alone calls the public methods; none blocks but the destructor.
class Rank {
 public:
  // Called on threads of the rank; they must not block.
  struct Events {
    std::function<void(const RankId&, const ham::v1::Progress&)> progress;
    std::function<void()> recorded;  // the spool has grown
    // Last call, once. The process is gone, and all it wrote is in the spool.
    std::function<void(const RankId&, const ham::v1::RankExit&)> exited;
  };

  // Starts. `directory` exists, is empty and belongs to the rank.
  Rank(const RankHost& host, const ham::v1::Assignment& assignment, const ham::v1::Slot& slot, std::string directory,
       std::shared_ptr<Spool> spool, Events events);
  // Kills what runs, and waits for it.
  ~Rank();
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  int slot() const { return slot_.index(); }
  void Terminate() { Signal(SIGTERM); }
  void Kill() { Signal(SIGKILL); }
  // Of an evaluation: hands the trainer all that it is to do now, instead of what it was not handed yet.
  void GiveWork(const WorkBlocks& blocks);
  // What the kernel says of the trainer's process; nullopt where there is none, and while its stacks are read, for
  // which it is stopped.
  std::optional<ham::v1::ProcessState> Observe();

 private:
  void Run();
  absl::Status Prepare();
  // Calls fetch() until it is done with, or cannot be.
  absl::Status Download(const std::string& what, const std::function<absl::Status(const TransferPeer&)>& fetch);
  absl::Status StartProcess();
  absl::Status Greet();
  // Reads frames to their end; not OK if the trainer broke the protocol or a record could not be kept.
  absl::Status ReadFrames();
  absl::Status Handle(TrainerFrame frame);
  absl::Status Record(ham::v1::SpooledRecord record);
  void ReadLog();
  void LookAtSilence(const ham::v1::Progress& last, absl::Duration silence);
  // Apart from all else: a trainer that is slow to read keeps nobody waiting.
  void SendWork();
  void AddLog(const std::vector<std::string>& pieces);
  void Signal(int signal);
  absl::Status Send(const nlohmann::json& frame);
  absl::Status Upload(const CheckpointFrame& checkpoint);

  const RankHost host_;
  const ham::v1::Assignment assignment_;
  const ham::v1::Slot slot_;
  const RankId id_;
  const std::string directory_;
  const std::shared_ptr<Spool> spool_;
  const Events events_;

  ExitFacts facts_;              // thread_ only
  std::string resume_manifest_;  // thread_ only
  std::string weights_;          // thread_ only
  RendezvousRelay relay_;
  CallCancel cancel_;                             // of downloads and uploads
  std::unique_ptr<CheckpointUploader> uploader_;  // thread_ only
  std::unique_ptr<SilenceWatch> silence_;         // thread_ only

  absl::Mutex write_mutex_;  // one frame at a time to the trainer
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;                     // Terminate or Kill came
  bool over_ ABSL_GUARDED_BY(mutex_) = false;                        // the trainer takes no more work
  bool looked_at_ ABSL_GUARDED_BY(mutex_) = false;                   // its stacks are being read
  std::optional<WorkBlocks> work_ ABSL_GUARDED_BY(mutex_);           // to be handed on
  std::unique_ptr<TrainerProcess> process_ ABSL_GUARDED_BY(mutex_);  // set once, by thread_
  std::thread thread_;
};

}  // namespace ham::agent
