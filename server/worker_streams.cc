#include "server/worker_streams.h"

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"
#include "proto/rpc_status.h"
#include "proto/utf8.h"
#include "proto/version.h"
#include "proto/worker_rules.h"

namespace ham::server {
namespace {

// What the loop holds of a control stream; outlives the reactor where the loop lets go later. A read is outstanding
// whenever no message is being applied, so that a broken connection is seen at once.
class ControlStream final : public ControlReactor {
 public:
  ControlStream(CoordinatorLoop* loop, OpenStreams* open)
      : open_(&open->control), loop_(loop), outbox_(std::make_shared<Outbox>(this)) {
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Leave(absl::CancelledError("the worker went away"));
    if (incoming_.has_register_()) return Register();
    if (incoming_.has_beat() && session_ != 0) return Beat();
    Leave(
        absl::InvalidArgumentError("the first message of a control stream must be `register`, each later one `beat`"));
  }
  void OnWriteDone(bool ok) override { outbox_->Written(ok); }
  void OnDone() override {
    outbox_->Detach();
    delete this;
  }

 private:
  // Messages on their way to the worker. Thread-safe.
  class Outbox final : public WorkerStream {
   public:
    explicit Outbox(ControlStream* stream) : stream_(stream) {}

    void Send(ham::v1::CoordinatorMessage message) override {
      absl::MutexLock lock(&mutex_);
      if (finished_) return;
      // Level-triggered: a newer set replaces one that has not left.
      if (message.has_desired() && !waiting_.empty() && waiting_.back().has_desired()) waiting_.pop_back();
      waiting_.push_back(std::move(message));
      Write();
    }
    void End(const absl::Status& status) override {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(finished_, true)) return;
      stream_->Finish(ToGrpc(status));
    }
    void Written(bool ok) {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (ok) Write();
    }
    void Read() {
      absl::MutexLock lock(&mutex_);
      if (!finished_) stream_->StartRead(&stream_->incoming_);
    }
    void Detach() {
      absl::MutexLock lock(&mutex_);
      finished_ = true;
      stream_ = nullptr;
    }

   private:
    void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (finished_ || writing_ || waiting_.empty()) return;
      writing_ = true;
      outgoing_ = std::move(waiting_.front());
      waiting_.pop_front();
      stream_->StartWrite(&outgoing_);
    }

    absl::Mutex mutex_;
    ControlStream* stream_ ABSL_GUARDED_BY(mutex_);
    std::deque<ham::v1::CoordinatorMessage> waiting_ ABSL_GUARDED_BY(mutex_);
    ham::v1::CoordinatorMessage outgoing_ ABSL_GUARDED_BY(mutex_);
    bool writing_ ABSL_GUARDED_BY(mutex_) = false;
    bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  };

  void Leave(const absl::Status& status) {
    if (session_ != 0) loop_->Disconnected(worker_id_, session_, outbox_.get());
    outbox_->End(status);
  }

  void Register() {
    absl::Status status = session_ != 0 ? absl::InvalidArgumentError("a control stream registers once")
                                        : CheckRegistration(incoming_.register_());
    if (!status.ok()) return Leave(status);
    worker_id_ = incoming_.register_().worker_id();
    // Nothing touches the stream between StartRead calls but the message in hand: no lock on worker_id_, session_.
    loop_->Register(std::move(*incoming_.mutable_register_()), outbox_,
                    [this, outbox = outbox_](const absl::StatusOr<int64_t>& session) {
                      if (!session.ok()) return outbox->End(session.status());
                      session_ = *session;
                      outbox->Read();
                    });
  }

  void Beat() {
    // The loop may end the stream while it applies the beat: what answers must not need the stream.
    loop_->Beat(worker_id_, session_, std::move(*incoming_.mutable_beat()),
                [loop = loop_, id = worker_id_, session = session_, outbox = outbox_](const absl::Status& status) {
                  // A beat that was refused because of load is made good by the next.
                  if (!absl::IsAborted(status)) return outbox->Read();
                  loop->Disconnected(id, session, outbox.get());
                  outbox->End(status);
                });
  }

  const OpenStream open_;
  CoordinatorLoop* const loop_;
  const std::shared_ptr<Outbox> outbox_;
  ham::v1::AgentMessage incoming_;
  std::string worker_id_;
  int64_t session_ = 0;  // 0 until registered
};

// Takes one request, answers it once durable, takes the next: exactly one operation is outstanding, so a broken
// connection shows itself in it.
class ReportStream final : public ReportReactor {
 public:
  ReportStream(CoordinatorLoop* loop, OpenStreams* open) : open_(&open->report), loop_(loop) { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    loop_->Append(std::move(incoming_), [this](absl::StatusOr<ham::v1::ReportResponse> response) {
      if (!response.ok()) return Finish(ToGrpc(response.status()));
      outgoing_ = *std::move(response);
      StartWrite(&outgoing_);
    });
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void OnDone() override { delete this; }

 private:
  const OpenStream open_;
  CoordinatorLoop* const loop_;
  ham::v1::ReportRequest incoming_;
  ham::v1::ReportResponse outgoing_;
};

template <class Reactor>
class Refused final : public Reactor {
 public:
  explicit Refused(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

absl::Status CheckRegistration(const ham::v1::RegisterWorker& registration) {
  if (registration.protocol_version() != kProtocolVersion) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("the worker speaks protocol version ",
                                                   registration.protocol_version(), ", this coordinator version ",
                                                   kProtocolVersion, ": install the same release of ham on both")),
        "PROTOCOL_VERSION");
  }
  std::vector<FieldViolation> wrong;
  const auto check = [&wrong](bool good, const char* field, std::string text) {
    if (!good) wrong.push_back({absl::StrCat("register.", field), std::move(text)});
  };
  check(IsWorkerName(registration.worker_name()), "worker_name",
        absl::StrCat("worker name \"", Shown(registration.worker_name(), 100),
                     "\" must be 1 to 63 of [a-z0-9-], with a letter or digit first and last: give one with --name"));
  check(!registration.worker_id().empty() && registration.worker_id().size() <= kMostIdentifierBytes, "worker_id",
        "worker_id must have 1 to 64 bytes");
  check(!registration.incarnation().empty() && registration.incarnation().size() <= kMostIdentifierBytes, "incarnation",
        "incarnation must have 1 to 64 bytes");
  check(registration.build_id().size() <= kMostIdentifierBytes, "build_id", "build_id must have at most 64 bytes");
  check(registration.slots_size() <= kMostSlots, "slots",
        absl::StrCat("slots has ", registration.slots_size(), " entries: at most ", kMostSlots, " are allowed"));
  std::set<int> indexes;
  for (const ham::v1::Slot& slot : registration.slots()) {
    check(slot.index() >= 0 && indexes.insert(slot.index()).second, "slots.index",
          absl::StrCat("slot index ", slot.index(), " must not be negative, nor stand twice"));
    check(slot.device() == "cpu" || slot.device() == "cuda", "slots.device",
          absl::StrCat("slot device \"", Shown(slot.device(), 100), "\" must be cpu or cuda"));
    check(slot.device_id().size() <= kMostInventoryBytes, "slots.device_id", "device_id must have at most 255 bytes");
    check(slot.device_name().size() <= kMostInventoryBytes, "slots.device_name",
          "device_name must have at most 255 bytes");
    check(slot.gpu().ByteSizeLong() <= kMostGpuBytes, "slots.gpu",
          absl::StrCat("what is said of a GPU must have at most ", kMostGpuBytes, " bytes"));
  }
  check(registration.data_sets_size() <= kMostDataSets, "data_sets",
        absl::StrCat("data_sets has ", registration.data_sets_size(), " entries: at most ", kMostDataSets,
                     " are allowed"));
  for (const ham::v1::DataSet& data_set : registration.data_sets()) {
    check(data_set.name().size() <= kMostInventoryBytes, "data_sets.name",
          "a data set's name must have at most 255 bytes");
    check(data_set.digest().size() <= kMostIdentifierBytes, "data_sets.digest",
          "a data set's digest must have at most 64 bytes");
  }
  return wrong.empty() ? absl::OkStatus() : InvalidFields(wrong);
}

ControlReactor* NewControlStream(CoordinatorLoop* loop, OpenStreams* open) { return new ControlStream(loop, open); }
ReportReactor* NewReportStream(CoordinatorLoop* loop, OpenStreams* open) { return new ReportStream(loop, open); }
ControlReactor* RefuseControl(const absl::Status& status) { return new Refused<ControlReactor>(status); }
ReportReactor* RefuseReport(const absl::Status& status) { return new Refused<ReportReactor>(status); }

}  // namespace ham::server
