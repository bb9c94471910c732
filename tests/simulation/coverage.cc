#include "tests/simulation/coverage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ham::simulation {

using ham::v1::Job;

namespace {

// In the order of server::Event.
constexpr std::array<const char*, 11> kEventNames = {"SubmitJob",         "CancelJob",          "WorkerRegistered",
                                                     "WorkerBeat",        "WorkerDisconnected", "CheckpointCommitted",
                                                     "CheckpointDamaged", "WorkFinished",       "EvaluationRecorded",
                                                     "JobBroken",         "TimerFired"};
static_assert(kEventNames.size() == std::variant_size_v<server::Event>);

// All refusals of Coordinator::Apply.
constexpr std::array<const char*, 12> kRefusals = {
    "SubmitJob ALREADY_EXISTS",        "CancelJob NOT_FOUND",          "CancelJob FAILED_PRECONDITION",
    "WorkerRegistered ALREADY_EXISTS", "WorkerRegistered ABORTED",     "WorkerBeat ABORTED",
    "WorkerDisconnected ABORTED",      "CheckpointCommitted ABORTED",  "CheckpointCommitted FAILED_PRECONDITION",
    "CheckpointDamaged NOT_FOUND",     "EvaluationRecorded NOT_FOUND", "EvaluationRecorded FAILED_PRECONDITION"};

std::string ArrowName(int from, int to) {
  return absl::StrCat(Job::State_Name(static_cast<Job::State>(from)), " to ",
                      Job::State_Name(static_cast<Job::State>(to)));
}

}  // namespace

const std::vector<Arrow>& Arrows() {
  // Nobody can ask for a pause or a preemption yet; a gang that comes to nothing is RECOVERING before it is QUEUED.
  static const std::vector<Arrow> arrows = {
      {Job::QUEUED, Job::STARTING, true},        {Job::QUEUED, Job::CANCELLED, true},
      {Job::QUEUED, Job::FAILED, true},          {Job::STARTING, Job::RUNNING, true},
      {Job::STARTING, Job::RECOVERING, true},    {Job::STARTING, Job::QUEUED, false},
      {Job::STARTING, Job::CANCELLING, true},    {Job::STARTING, Job::FAILED, true},
      {Job::RUNNING, Job::PAUSING, false},       {Job::RUNNING, Job::PREEMPTING, false},
      {Job::RUNNING, Job::RECOVERING, true},     {Job::RUNNING, Job::CANCELLING, true},
      {Job::RUNNING, Job::SUCCEEDED, true},      {Job::RUNNING, Job::FAILED, true},
      {Job::RECOVERING, Job::STARTING, true},    {Job::RECOVERING, Job::QUEUED, true},
      {Job::RECOVERING, Job::CANCELLING, true},  {Job::RECOVERING, Job::FAILED, true},
      {Job::PAUSING, Job::PAUSED, false},        {Job::PAUSING, Job::RECOVERING, false},
      {Job::PAUSING, Job::CANCELLING, false},    {Job::PAUSING, Job::SUCCEEDED, false},
      {Job::PAUSING, Job::FAILED, false},        {Job::PAUSED, Job::QUEUED, false},
      {Job::PAUSED, Job::CANCELLED, false},      {Job::PREEMPTING, Job::QUEUED, false},
      {Job::PREEMPTING, Job::CANCELLING, false}, {Job::PREEMPTING, Job::SUCCEEDED, false},
      {Job::PREEMPTING, Job::FAILED, false},     {Job::CANCELLING, Job::CANCELLED, true},
      {Job::CANCELLING, Job::SUCCEEDED, true},
  };
  return arrows;
}

bool IsArrow(Job::State from, Job::State to) {
  return std::any_of(Arrows().begin(), Arrows().end(),
                     [&](const Arrow& arrow) { return arrow.from == from && arrow.to == to; });
}

const char* NameOf(const server::Event& event) { return kEventNames[event.index()]; }

std::string Coverage::CountRefusal(const server::Event& event, const absl::Status& status) {
  const std::string name = absl::StrCat(NameOf(event), " ", absl::StatusCodeToString(status.code()));
  ++refusals_[name];
  const bool known = std::any_of(kRefusals.begin(), kRefusals.end(), [&](const char* one) { return name == one; });
  return known ? "" : absl::StrCat(name, ": ", std::string(status.message()));
}

void Coverage::Add(const Coverage& other) {
  for (size_t i = 0; i < kFaultKinds; ++i) faults_[i] += other.faults_[i];
  for (const auto& [arrow, count] : other.arrows_) arrows_[arrow] += count;
  for (const auto& [name, count] : other.refusals_) refusals_[name] += count;
  for (const auto& [name, count] : other.notes_) notes_[name] += count;
}

std::vector<std::string> Coverage::Missing(int64_t arrows, int64_t refusals, int64_t faults) const {
  std::vector<std::string> missing;
  const auto check = [&missing](int64_t count, int64_t bound, const std::string& what) {
    if (count < bound) missing.push_back(absl::StrCat(what, ": ", count, " times, wanted ", bound));
  };
  for (const Arrow& arrow : Arrows()) {
    const auto found = arrows_.find({arrow.from, arrow.to});
    if (arrow.reachable) check(found == arrows_.end() ? 0 : found->second, arrows, ArrowName(arrow.from, arrow.to));
  }
  for (const char* name : kRefusals) {
    const auto found = refusals_.find(name);
    check(found == refusals_.end() ? 0 : found->second, refusals, name);
  }
  for (size_t i = 0; i < kFaultKinds; ++i) check(faults_[i], faults, NameOf(static_cast<Fault>(i)));
  return missing;
}

std::string Coverage::Table() const {
  std::string text;
  const auto line = [&text](const std::string& what, int64_t count) {
    absl::StrAppendFormat(&text, "%-44s %10d\n", what, count);
  };
  text += "Arrows\n";
  for (const Arrow& arrow : Arrows()) {
    const auto found = arrows_.find({arrow.from, arrow.to});
    if (arrow.reachable) line(ArrowName(arrow.from, arrow.to), found == arrows_.end() ? 0 : found->second);
  }
  text += "Arrows that the core cannot take yet:";
  const char* separator = " ";
  for (const Arrow& arrow : Arrows()) {
    if (!arrow.reachable) absl::StrAppend(&text, std::exchange(separator, ", "), ArrowName(arrow.from, arrow.to));
  }
  text += "\nRefused events\n";
  for (const auto& [name, count] : refusals_) line(name, count);
  text += "Faults\n";
  for (size_t i = 0; i < kFaultKinds; ++i) line(NameOf(static_cast<Fault>(i)), faults_[i]);
  text += "Other\n";
  for (const auto& [name, count] : notes_) line(name, count);
  return text;
}

}  // namespace ham::simulation
