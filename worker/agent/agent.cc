#include "worker/agent/agent.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/log.h"
#include "proto/version.h"
#include "worker/agent/work_directory.h"
#include "worker/agent/worker_id.h"

namespace ham::agent {
namespace {

constexpr absl::Duration kCloseTimeout = absl::Seconds(2);
constexpr size_t kSpoolBytes = size_t{2} << 30;

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

LogSubject SubjectOf(const RankId& id) { return {.job = id.job, .attempt = id.attempt, .rank = id.rank}; }
std::string Describe(const RankId& id) { return absl::StrCat(id.job, " attempt ", id.attempt, " rank ", id.rank); }

}  // namespace

Agent::Agent(AgentConfig config, std::function<void(const absl::Status&)> ended)
    : config_(std::move(config)),
      ended_(std::move(ended)),
      incarnation_(RandomId()),
      link_(config_.connection),
      launcher_(std::make_unique<TrainerLauncher>(config_.worker_id)),
      gpu_monitor_(config_.slots, config_.gpu_monitor),
      disk_monitor_(config_.state_dir, absl::Seconds(1)),
      core_(config_.assignments, absl::ZeroDuration()),
      disk_(config_.state_dir) {
  host_.link = &link_;
  host_.launcher = launcher_.get();
  host_.trainer = config_.trainer;
  host_.data_root = config_.data_root;
  host_.data_interface = config_.data_interface;
  host_.cpu_shares = config_.cpu_shares;
  host_.backoff = config_.backoff;
  host_.silence = config_.silence;
  reports_ = std::make_unique<ReportStream>(
      &link_, config_.backoff,
      ReportStream::Events{.flushed = [this](const RankId& id) { Post([this, id] { core_.Flushed(id); }); },
                           .fenced =
                               [this](const RankId& id) {
                                 Post([this, id] {
                                   Log(spdlog::level::warn, SubjectOf(id),
                                       absl::StrCat(Describe(id), " is no longer current: stopping it"));
                                   core_.Fenced(id, Now());
                                 });
                               }});
  control_ = std::make_unique<ControlStream>(
      config_.connection, config_.control,
      ControlStream::Events{.opening = [this](int64_t stream) { Post([this, stream] { Opening(stream); }); },
                            .connected =
                                [this](int64_t stream, size_t endpoint, const ham::v1::Welcome& welcome) {
                                  Post([this, stream, endpoint, welcome] { Connected(stream, endpoint, welcome); });
                                },
                            .desired =
                                [this](int64_t stream, const ham::v1::DesiredAssignments& desired) {
                                  Post([this, stream, desired] { Desired(stream, desired); });
                                },
                            .sent = [this](int64_t exits) { Post([this, exits] { core_.Told(exits); }); },
                            .closed = [this](int64_t stream) { Post([this, stream] { Closed(stream); }); },
                            .failed =
                                [this](const absl::Status& status) {
                                  Post([this, status] {
                                    fatal_ = status;
                                    BeginStop();
                                  });
                                }});
  thread_ = std::thread([this] { Run(); });
}

Agent::~Agent() {
  Stop();
  Stop();
  thread_.join();
}

void Agent::Stop() {
  Post([this] {
    if (stopping_) core_.KillNow();
    BeginStop();
  });
}

void Agent::Post(Task task) {
  absl::MutexLock lock(&mutex_);
  if (!closed_) tasks_.push_back(std::move(task));
}

void Agent::Run() {
  while (!Finished()) {
    RunTasks(std::min(next_beat_, core_.NextTimer()));
    core_.Tick(Now());
    Act();
    SendBeat();
    GiveUpIfAlone();
  }
  control_->Close(kCloseTimeout);
  reports_->Close();
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    tasks_.clear();
  }
  for (const auto& [id, spool] : spools_) RemoveWorkDirectory(DirectoryOf(id));
  ended_(fatal_);
}

void Agent::RunTasks(absl::Duration deadline) {
  std::deque<Task> tasks;
  {
    absl::MutexLock lock(&mutex_);
    const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !tasks_.empty(); };
    mutex_.AwaitWithTimeout(absl::Condition(&due), std::max(absl::ZeroDuration(), deadline - Now()));
    tasks.swap(tasks_);
  }
  for (const Task& task : tasks) task();
}

void Agent::Act() {
  // Acting may lead to more: a rank that cannot start has ended.
  for (std::vector<Action> actions = core_.TakeActions(); !actions.empty(); actions = core_.TakeActions()) {
    for (const Action& action : actions) {
      if (const auto* start = std::get_if<StartRank>(&action)) {
        Start(start->assignment);
      } else if (const auto* terminate = std::get_if<TerminateRank>(&action)) {
        if (const auto rank = ranks_.find(terminate->id); rank != ranks_.end()) rank->second->Terminate();
      } else if (const auto* kill = std::get_if<KillRank>(&action)) {
        if (const auto rank = ranks_.find(kill->id); rank != ranks_.end()) rank->second->Kill();
      } else if (const auto* work = std::get_if<GiveWork>(&action)) {
        if (const auto rank = ranks_.find(work->id); rank != ranks_.end()) rank->second->GiveWork(work->blocks);
      } else if (const auto* forget = std::get_if<ForgetRank>(&action)) {
        Forget(forget->id);
      }
    }
  }
}

void Agent::Start(const ham::v1::Assignment& assignment) {
  const RankId id = IdOf(assignment);
  Log(spdlog::level::info, SubjectOf(id),
      absl::StrCat("starting ", Describe(id), " of ", assignment.world_size(), " in slot ", assignment.slot()));
  const absl::Status status = TryStart(assignment);
  if (status.ok()) return;
  ExitFacts facts;
  facts.broken = status;
  RankExited(id, ClassifyExit(facts));
}

absl::Status Agent::TryStart(const ham::v1::Assignment& assignment) {
  const RankId id = IdOf(assignment);
  const auto slot = std::find_if(config_.slots.begin(), config_.slots.end(),
                                 [&](const ham::v1::Slot& s) { return s.index() == assignment.slot(); });
  if (slot == config_.slots.end()) {
    return absl::NotFoundError(absl::StrCat("this worker has no slot ", assignment.slot()));
  }
  const std::string directory = DirectoryOf(id);
  if (directory.empty()) return absl::InvalidArgumentError(absl::StrCat("\"", id.job, "\" is no name of a job"));
  if (absl::Status status = MakeWorkDirectory(directory); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Spool>> spool = Spool::Open(directory + "/spool", kSpoolBytes);
  if (!spool.ok()) return spool.status();
  const std::shared_ptr<Spool> shared = *std::move(spool);
  spools_[id] = shared;
  reports_->Add(id, shared);
  ranks_[id] = std::make_unique<Rank>(
      host_, assignment, *slot, directory, shared,
      Rank::Events{
          .progress =
              [this](const RankId& rank, const ham::v1::Progress& progress) {
                Post([this, rank, progress] { core_.Progressed(rank, progress); });
              },
          .recorded = [this] { reports_->Wake(); },
          .exited = [this](const RankId& rank,
                           const ham::v1::RankExit& exit) { Post([this, rank, exit] { RankExited(rank, exit); }); }});
  return absl::OkStatus();
}

void Agent::RankExited(const RankId& id, const ham::v1::RankExit& exit) {
  Log(spdlog::level::info, SubjectOf(id),
      absl::StrCat(Describe(id), " ended: ", exit.success() ? "done" : exit.message()));
  ranks_.erase(id);
  const auto spool = spools_.find(id);
  core_.Exited(id, exit, spool == spools_.end() || spool->second->empty(), Now());
}

void Agent::Forget(const RankId& id) {
  reports_->Remove(id);
  if (spools_.erase(id) != 0) RemoveWorkDirectory(DirectoryOf(id));
}

void Agent::SendBeat() {
  const bool changed = core_.TakeChanged();
  if (!changed && !beat_due_ && Now() < next_beat_) return;
  next_beat_ = Now() + heartbeat_;
  beat_due_ = false;
  LookAtSlots();
  if (!connected_) return;
  const std::vector<ham::v1::GpuReading> gpus = gpu_monitor_.Newest();
  ham::v1::Beat beat;
  beat.set_desired_version(desired_version_);
  beat.set_leaving(stopping_);
  for (ham::v1::ObservedRank& observed : core_.Observed()) {
    const auto rank = ranks_.find({observed.job(), observed.attempt(), observed.rank()});
    std::optional<ham::v1::ProcessState> process;
    if (rank != ranks_.end()) process = rank->second->Observe();
    if (process) *observed.mutable_process() = *std::move(process);
    for (const ham::v1::GpuReading& gpu : gpus) {
      const bool its_own = rank != ranks_.end() && gpu.slot() == rank->second->slot();
      if (its_own && gpu.has_utilization()) observed.set_gpu_utilization(gpu.utilization());
    }
    *beat.add_observed() = std::move(observed);
  }
  beat.mutable_gpus()->Assign(gpus.begin(), gpus.end());
  beat.mutable_problems()->Assign(problems_.begin(), problems_.end());
  control_->Beat(stream_, std::move(beat), core_.exits());
}

void Agent::LookAtSlots() {
  std::set<int> occupied;
  for (const auto& [id, rank] : ranks_) occupied.insert(rank->slot());
  gpu_monitor_.SetOccupied(std::move(occupied));
  std::optional<ham::v1::SlotProblem> of_disk;
  if (const std::optional<uint64_t> free = disk_monitor_.free_bytes()) of_disk = disk_.Judge(*free);
  const std::vector<ham::v1::SlotProblem> before =
      std::exchange(problems_, GravestProblems(config_.slots, gpu_monitor_.Problems(), of_disk));
  const auto among = [](const ham::v1::SlotProblem& one, const std::vector<ham::v1::SlotProblem>& all) {
    return std::any_of(all.begin(), all.end(),
                       [&](const auto& other) { return other.slot() == one.slot() && other.kind() == one.kind(); });
  };
  for (const ham::v1::SlotProblem& problem : problems_) {
    if (!among(problem, before)) spdlog::warn("slot {} takes no ranks: {}", problem.slot(), problem.message());
  }
  for (const ham::v1::SlotProblem& problem : before) {
    if (among(problem, problems_)) continue;
    spdlog::info("slot {}: {} is over", problem.slot(), ham::v1::SlotProblem::Kind_Name(problem.kind()));
  }
}

void Agent::GiveUpIfAlone() {
  if (stopping_ || connected_ || core_.has_processes() || Now() < contact_lost_ + config_.give_up_after) return;
  fatal_ = absl::UnavailableError(absl::StrCat("no coordinator was reached at ",
                                               absl::StrJoin(config_.connection.endpoints, ", "), " for ",
                                               absl::FormatDuration(config_.give_up_after),
                                               ": see that it runs and that this host reaches it, or fetch the file ",
                                               "worker-join from its state directory again"));
  BeginStop();
}

void Agent::BeginStop() {
  if (std::exchange(stopping_, true)) return;
  spdlog::info("stopping");
  core_.Shutdown(Now());
  beat_due_ = true;  // before its ranks have ended: they are not to be placed here again
}

bool Agent::Finished() const { return stopping_ && !core_.has_processes() && (!fatal_.ok() || core_.Settled()); }

void Agent::Opening(int64_t stream) {
  stream_ = stream;
  connected_ = false;
  desired_version_ = 0;
  ham::v1::RegisterWorker registration;
  registration.set_protocol_version(kProtocolVersion);
  registration.set_build_id(BuildId());
  registration.set_worker_id(config_.worker_id);
  registration.set_worker_name(config_.name);
  registration.set_incarnation(incarnation_);
  registration.set_incarnation_number(config_.incarnation_number);
  LookAtSlots();
  for (const ham::v1::Slot& slot : config_.slots) {
    ham::v1::Slot& told = *registration.add_slots() = slot;
    for (const ham::v1::SlotProblem& problem : problems_) {
      if (problem.slot() == slot.index()) *told.mutable_problem() = problem;
    }
  }
  for (const ham::v1::DataSet& data_set : config_.data_sets) *registration.add_data_sets() = data_set;
  for (ham::v1::ObservedRank& rank : core_.Observed()) *registration.add_observed() = std::move(rank);
  control_->Register(stream, std::move(registration));
}

void Agent::Connected(int64_t stream, size_t endpoint, const ham::v1::Welcome& welcome) {
  if (stream != stream_) return;
  if (!cluster_id_.empty() && cluster_id_ != welcome.cluster_id()) {
    spdlog::warn("the coordinator now belongs to cluster {}, not {}: stopping all ranks", welcome.cluster_id(),
                 cluster_id_);
    core_.Abandon(Now());
  }
  cluster_id_ = welcome.cluster_id();
  connected_ = true;
  beat_due_ = true;
  spdlog::info("connected to {} as {}", config_.connection.endpoints[endpoint], config_.name);
  if (welcome.has_heartbeat_interval()) {
    heartbeat_ = std::clamp(FromProto(welcome.heartbeat_interval()), absl::Milliseconds(10), absl::Minutes(1));
  }
  if (welcome.has_terminate_grace()) core_.SetTerminateGrace(FromProto(welcome.terminate_grace()));
  core_.Connected();
  link_.Connected(endpoint, welcome.cluster_id(), welcome.session());
  reports_->Connected();
}

void Agent::Desired(int64_t stream, const ham::v1::DesiredAssignments& desired) {
  if (stream != stream_ || desired.version() < desired_version_) return;
  desired_version_ = desired.version();
  beat_due_ = true;
  core_.Desire(desired, Now());
}

void Agent::Closed(int64_t stream) {
  if (stream != stream_) return;
  connected_ = false;
  contact_lost_ = Now();
  core_.Disconnected(Now());
}

std::string Agent::DirectoryOf(const RankId& id) const {
  return WorkDirectory(config_.state_dir, id.job, id.attempt, id.rank);
}

}  // namespace ham::agent
