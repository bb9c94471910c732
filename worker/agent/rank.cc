#include "worker/agent/rank.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/version.h"
#include "worker/agent/local_address.h"
#include "worker/agent/log_text.h"
#include "worker/agent/slots.h"
#include "worker/ipc/frame.h"

namespace ham::agent {
namespace {

void SetNow(ham::v1::SpooledRecord* record) {
  const timespec now = absl::ToTimespec(absl::Now());
  record->mutable_time()->set_seconds(now.tv_sec);
  record->mutable_time()->set_nanos(static_cast<int32_t>(now.tv_nsec));
}

// Waits until `fd` can be read or is at its end.
bool AwaitReadable(int fd, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const absl::Duration left = std::max(absl::ZeroDuration(), deadline - absl::Now());
    pollfd entry = {fd, POLLIN, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return true;
    if (ready == 0 && absl::Now() >= deadline) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

}  // namespace

Rank::Rank(const RankHost& host, const ham::v1::Assignment& assignment, const ham::v1::Slot& slot,
           std::string directory, std::shared_ptr<Spool> spool, Events events)
    : host_(host),
      assignment_(assignment),
      slot_(slot),
      id_(IdOf(assignment)),
      directory_(std::move(directory)),
      spool_(std::move(spool)),
      events_(std::move(events)),
      relay_(host.link, id_.job, id_.attempt) {
  if (assignment_.spec().has_evaluate()) GiveWork(assignment_.blocks());
  thread_ = std::thread([this] { Run(); });
}

Rank::~Rank() {
  Kill();
  thread_.join();
}

void Rank::Signal(int signal) {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    if (process_ != nullptr) process_->Signal(signal);
  }
  cancel_.Cancel();
}

void Rank::GiveWork(const WorkBlocks& blocks) {
  absl::MutexLock lock(&mutex_);
  work_ = blocks;
}

std::optional<ham::v1::ProcessState> Rank::Observe() {
  absl::MutexLock lock(&mutex_);
  return process_ == nullptr || looked_at_ ? std::nullopt : process_->Observe();
}

void Rank::Run() {
  facts_.broken = Prepare();
  if (facts_.broken.ok()) facts_.broken = StartProcess();
  TrainerProcess* process = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    process = process_.get();
  }
  if (process != nullptr) {
    std::thread log([this] { ReadLog(); });
    if (facts_.broken.ok()) facts_.broken = Greet();
    std::thread work;
    if (facts_.broken.ok()) {
      work = std::thread([this] { SendWork(); });
      silence_ = std::make_unique<SilenceWatch>(
          host_.silence.limit,
          [this](const ham::v1::Progress& last, absl::Duration silence) { LookAtSilence(last, silence); });
      facts_.broken = ReadFrames();
    }
    if (!facts_.broken.ok() || !process->Wait(host_.exit_timeout)) process->Signal(SIGKILL);
    facts_.wait_status = process->Wait(absl::InfiniteDuration());
    // Wakes whoever writes to it, then the log's reader.
    ::shutdown(process->frame_fd(), SHUT_RDWR);
    {
      absl::MutexLock lock(&mutex_);
      over_ = true;
    }
    if (work.joinable()) work.join();
    silence_.reset();
    log.join();
  }
  cancel_.Cancel();
  if (uploader_ != nullptr) uploader_->Close();
  relay_.Close();
  events_.exited(id_, ClassifyExit(facts_));
}

absl::Status Rank::Prepare() {
  if (assignment_.has_checkpoint()) {
    return Download("checkpoint to resume from", [this](const TransferPeer& peer) {
      const absl::StatusOr<std::string> manifest =
          DownloadCheckpoint(peer, assignment_.checkpoint(), directory_ + "/resume");
      if (manifest.ok()) resume_manifest_ = *manifest;
      return manifest.status();
    });
  }
  if (!assignment_.spec().has_evaluate()) return absl::OkStatus();
  weights_ = directory_ + "/weights.safetensors";
  return Download("weights", [this](const TransferPeer& peer) {
    return DownloadWeights(peer, assignment_.spec().evaluate().weights(), weights_);
  });
}

absl::Status Rank::Download(const std::string& what, const std::function<absl::Status(const TransferPeer&)>& fetch) {
  Backoff backoff(host_.backoff);
  std::mt19937_64 random{std::random_device()()};
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  while (true) {
    const CoordinatorLink::Connection connection = host_.link->Get(id_.job, id_.attempt);
    const absl::Status status = fetch(
        {.stub = connection.stub, .config = &host_.link->config(), .fence = connection.fence, .cancel = &cancel_});
    if (status.ok()) return status;
    if (!MayPass(status)) {
      return absl::Status(status.code(), absl::StrCat("cannot fetch the ", what, ": ", std::string(status.message())));
    }
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&stopped_), backoff.Next(unit(random)));
  }
}

absl::Status Rank::StartProcess() {
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return absl::CancelledError("the rank was stopped before its trainer started");
  }
  absl::StatusOr<std::unique_ptr<TrainerProcess>> process = host_.launcher->Start(
      {TrainerOf(slot_, host_.trainer), "--agent-fd", absl::StrCat(kTrainerSocket)},
      SlotEnvironment(slot_, host_.data_interface),
      PlacementOf(host_.cpu_shares, slot_.index(), ThreadsOf(assignment_.spec()), assignment_.world_size()));
  if (!process.ok()) return process.status();
  absl::MutexLock lock(&mutex_);
  process_ = *std::move(process);
  if (stopped_) process_->Signal(SIGTERM);
  return absl::OkStatus();
}

absl::Status Rank::Greet() {
  const int fd = [this] {
    absl::MutexLock lock(&mutex_);
    return process_->frame_fd();
  }();
  if (!AwaitReadable(fd, host_.hello_timeout)) {
    return absl::DeadlineExceededError(
        absl::StrCat("the trainer said nothing within ", absl::FormatDuration(host_.hello_timeout)));
  }
  const absl::StatusOr<nlohmann::json> message = ipc::ReadFrame(fd);
  if (absl::IsInvalidArgument(message.status())) {
    return absl::InvalidArgumentError(absl::StrCat("the trainer sent no frame: ", message.status().message()));
  }
  if (!message.ok()) return absl::OkStatus();  // it ended; how is seen next
  const absl::StatusOr<TrainerFrame> frame = ParseTrainerFrame(*message);
  if (!frame.ok()) return frame.status();
  const auto* hello = std::get_if<HelloFrame>(&*frame);
  if (hello == nullptr) return absl::InvalidArgumentError("the trainer did not begin with the frame \"hello\"");
  if (hello->build_id != BuildId()) {
    return absl::FailedPreconditionError(absl::StrCat("the trainer is of build ", hello->build_id, ", this worker of ",
                                                      BuildId(), ": install both from one build"));
  }
  std::string address;
  if (host_.data_interface.empty() && assignment_.world_size() > 1 && !assignment_.spec().has_evaluate()) {
    const absl::StatusOr<std::string> found =
        LocalAddressTowards(host_.link->config().endpoints[host_.link->endpoint()]);
    if (!found.ok()) {
      return absl::UnavailableError(absl::StrCat("cannot tell by which address other hosts reach this one (",
                                                 found.status().message(), "): name it with --data-interface"));
    }
    address = *found;
  }
  uploader_ =
      std::make_unique<CheckpointUploader>([this](const CheckpointFrame& checkpoint) { return Upload(checkpoint); },
                                           [this](const CheckpointFrame& checkpoint, const absl::Status& status) {
                                             Send(CheckpointDoneFrame(checkpoint.manifest, status)).IgnoreError();
                                           },
                                           host_.backoff);
  Send(StartFrame(assignment_, {.data_root = host_.data_root,
                                .work_dir = directory_,
                                .resume_manifest = resume_manifest_,
                                .weights = weights_,
                                .interface = host_.data_interface,
                                .address = address}))
      .IgnoreError();  // a trainer that is gone is seen in the next read
  return absl::OkStatus();
}

absl::Status Rank::ReadFrames() {
  const int fd = [this] {
    absl::MutexLock lock(&mutex_);
    return process_->frame_fd();
  }();
  while (true) {
    const absl::StatusOr<nlohmann::json> message = ipc::ReadFrame(fd);
    if (absl::IsInvalidArgument(message.status())) {
      return absl::InvalidArgumentError(absl::StrCat("the trainer sent no frame: ", message.status().message()));
    }
    if (!message.ok()) return absl::OkStatus();  // its end, also when cut within a frame by a kill
    absl::StatusOr<TrainerFrame> frame = ParseTrainerFrame(*message);
    if (!frame.ok()) return frame.status();
    if (absl::Status status = Handle(*std::move(frame)); !status.ok()) return status;
  }
}

absl::Status Rank::Handle(TrainerFrame frame) {
  if (auto* progress = std::get_if<ham::v1::Progress>(&frame)) {
    silence_->Heard(*progress);
    events_.progress(id_, *progress);
  } else if (auto* point = std::get_if<ham::v1::MetricPoint>(&frame)) {
    ham::v1::SpooledRecord record;
    SetNow(&record);
    *record.mutable_metric() = std::move(*point);
    return Record(std::move(record));
  } else if (auto* finding = std::get_if<ham::v1::EvaluationFinding>(&frame)) {
    ham::v1::SpooledRecord record;
    SetNow(&record);
    *record.mutable_finding() = std::move(*finding);
    return Record(std::move(record));
  } else if (auto* checkpoint = std::get_if<CheckpointFrame>(&frame)) {
    uploader_->Add(std::move(*checkpoint));
  } else if (auto* set = std::get_if<StoreSetFrame>(&frame)) {
    relay_.Set(set->key, set->value, [this, id = set->id](const absl::StatusOr<std::string>& value) {
      Send(StoreReplyFrame(id, value)).IgnoreError();
    });
  } else if (auto* get = std::get_if<StoreGetFrame>(&frame)) {
    relay_.Get(get->key, get->timeout, [this, id = get->id](const absl::StatusOr<std::string>& value) {
      Send(StoreReplyFrame(id, value)).IgnoreError();
    });
  } else if (auto* failed = std::get_if<FailedFrame>(&frame)) {
    facts_.failed_class = std::move(failed->failure_class);
    facts_.failed_message = std::move(failed->message);
    facts_.lost_rank = failed->lost_rank;
  } else if (std::holds_alternative<DoneFrame>(frame)) {
    facts_.done = true;
  } else {
    return absl::InvalidArgumentError("the trainer sent a second frame \"hello\"");
  }
  return absl::OkStatus();
}

absl::Status Rank::Record(ham::v1::SpooledRecord record) {
  absl::Status status = spool_->Append(std::move(record));
  if (status.ok()) events_.recorded();
  return status;
}

void Rank::ReadLog() {
  int fd = -1;
  TrainerProcess* process = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    process = process_.get();
    fd = process->log_fd();
  }
  LogText text;
  std::array<char, 65536> buffer;
  while (process->AwaitLog()) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n > 0) {
      AddLog(text.Add(std::string(buffer.data(), static_cast<size_t>(n))));
    } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
      break;
    }
  }
  AddLog(text.Finish());
}

void Rank::LookAtSilence(const ham::v1::Progress& last, absl::Duration silence) {
  TrainerProcess* process = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    process = process_.get();
    looked_at_ = true;
  }
  const std::optional<ham::v1::ProcessState> before = process->Observe();
  const std::string report = ThreadReport(process->pid(), host_.silence.stacks);
  // A reader of stacks that had to be killed may have left it stopped.
  if (before && before->state() != ham::v1::ProcessState::STOPPED) process->Signal(SIGCONT);
  {
    absl::MutexLock lock(&mutex_);
    looked_at_ = false;
  }
  LogText text;
  AddLog(text.Add(absl::StrCat("ham-worker: the trainer has said nothing new for ", absl::FormatDuration(silence),
                               " (phase ", last.phase(), ", iteration ", last.iteration(), ", collectives begun ",
                               last.collective_begun(), ", completed ", last.collective_sequence(), "); its threads:\n",
                               report)));
  AddLog(text.Finish());
}

void Rank::AddLog(const std::vector<std::string>& pieces) {
  for (const std::string& piece : pieces) {
    ham::v1::SpooledRecord record;
    SetNow(&record);
    record.set_log_text(piece);
    Record(std::move(record)).IgnoreError();  // a full disk ends the rank at its next metric, not for a line of text
  }
}

void Rank::SendWork() {
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return work_.has_value() || over_; };
  while (true) {
    WorkBlocks blocks;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&due));
      if (over_) return;
      blocks = *std::exchange(work_, std::nullopt);
    }
    if (Send(WorkFrame(blocks)).ok()) continue;
    // It would wait for this list for ever. Whether it is gone or deaf is seen in the next read.
    absl::MutexLock lock(&mutex_);
    ::shutdown(process_->frame_fd(), SHUT_RDWR);
    return;
  }
}

absl::Status Rank::Send(const nlohmann::json& frame) {
  int fd = -1;
  {
    absl::MutexLock lock(&mutex_);
    fd = process_->frame_fd();
  }
  absl::MutexLock lock(&write_mutex_);
  return ipc::WriteFrame(fd, frame);
}

absl::Status Rank::Upload(const CheckpointFrame& checkpoint) {
  if (checkpoint.manifest.rfind(directory_ + "/", 0) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint ", checkpoint.manifest, " lies outside of the rank's folder"));
  }
  const CoordinatorLink::Connection connection = host_.link->Get(id_.job, id_.attempt);
  return UploadCheckpoint(
      {.stub = connection.stub, .config = &host_.link->config(), .fence = connection.fence, .cancel = &cancel_},
      checkpoint.manifest, checkpoint.iteration, checkpoint.epoch);
}

}  // namespace ham::agent
