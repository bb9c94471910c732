#include "server/job_pictures.h"

#include <algorithm>

#include "proto/job_state.h"

namespace ham::server {
namespace {

bool WaitsForSlots(const JobRow& row) {
  return row.state == ham::v1::Job::QUEUED || (row.state == ham::v1::Job::RECOVERING && row.gang.empty());
}

constexpr int kAtWork = 0, kOver = 1, kWaiting = 2;

std::tuple<int, int64_t, std::string> OrderOf(const JobRow& row) {
  return {IsFinal(row.state) ? kOver : WaitsForSlots(row) ? kWaiting : kAtWork, row.submit_index, row.name};
}

std::shared_ptr<const JobFace> FaceOf(const JobRow& row) {
  JobFace face;
  face.name = row.name;
  const size_t begin = row.name.find('/') + 1;  // projects/{p}/jobs/{j}
  face.project = row.name.substr(begin, row.name.find('/', begin) - begin);
  face.evaluates = row.pool;
  face.data_set = row.data_set;
  face.creator = row.creator;
  return std::make_shared<const JobFace>(std::move(face));
}

}  // namespace

void JobPictures::Restore(const JobRow& row, Now now) {
  if (IsFinal(row.state)) {
    const absl::Duration left = row.end_time + after_end_ - now.wall;
    if (left <= absl::ZeroDuration() || left > after_end_) return;  // the clock may have been set
    Place(row, now.steady);
    ends_.emplace(now.steady + left, row.name);
    return;
  }
  // When one began to wait that was at work before is not known any more.
  const bool first = row.attempt == 0 && row.create_time != absl::InfinitePast() && row.create_time <= now.wall;
  Place(row, first ? now.steady - (now.wall - row.create_time) : now.steady);
}

void JobPictures::Note(const JobRow& row, absl::Duration now) {
  const auto known = entries_.find(row.name);
  const bool over = known != entries_.end() && std::get<0>(known->second.order) == kOver;
  Place(row, now);
  if (IsFinal(row.state) && !over) ends_.emplace(now + after_end_, row.name);
}

void JobPictures::Place(const JobRow& row, absl::Duration since) {
  const Order order = OrderOf(row);
  const auto [entry, first] = entries_.try_emplace(row.name, Entry{order});
  Entry& known = entry->second;
  auto picture = std::make_shared<JobPicture>();
  if (first) {
    picture->face = FaceOf(row);
    without_spec_.insert(order);
  } else {
    *picture = *by_order_.at(known.order);
    by_order_.erase(known.order);
    if (without_spec_.erase(known.order) != 0) without_spec_.insert(order);
  }
  picture->state = row.state;
  picture->attempt = row.attempt;
  picture->failed_attempts = row.failed_attempts;
  picture->create_time = row.create_time;
  picture->end_time = row.end_time;
  picture->checkpoint_iteration.reset();
  if (row.checkpoint) picture->checkpoint_iteration = row.checkpoint->iteration();
  by_order_[order] = std::move(picture);
  known.order = order;
  const bool waits = WaitsForSlots(row);
  if (waits == (known.waits_since != absl::InfiniteDuration())) return;
  waiting_.erase({known.waits_since, row.name});
  known.waits_since = waits ? since : absl::InfiniteDuration();
  if (waits) waiting_.emplace(since, row.name);
}

JobPicture* JobPictures::Change(const std::string& job) {
  const auto entry = entries_.find(job);
  if (entry == entries_.end()) return nullptr;
  std::shared_ptr<const JobPicture>& picture = by_order_.at(entry->second.order);
  auto copy = std::make_shared<JobPicture>(*picture);
  picture = copy;
  return copy.get();
}

void JobPictures::NoteSpec(const std::string& job, const ham::v1::JobSpec& spec) {
  JobPicture* const picture = Change(job);
  if (picture == nullptr) return;
  auto face = std::make_shared<JobFace>(*picture->face);
  face->method = spec.train().method().name();
  face->model = spec.has_evaluate() ? spec.evaluate().model().name() : spec.train().model().name();
  picture->face = std::move(face);
  GiveUpSpec(job);
}

void JobPictures::GiveUpSpec(const std::string& job) {
  const auto entry = entries_.find(job);
  if (entry != entries_.end()) without_spec_.erase(entry->second.order);
}

void JobPictures::NoteMetrics(const std::string& job, const ham::v1::MetricPoint& point) {
  JobPicture* const picture = Change(job);
  if (picture == nullptr) return;
  auto next =
      picture->metrics == nullptr ? std::make_shared<JobMetrics>() : std::make_shared<JobMetrics>(*picture->metrics);
  next->iteration = point.iteration();
  next->epoch = point.epoch();
  if (point.has_train()) {
    next->train = point.train();
    next->phase_seconds.Add(point.train());
  }
  if (point.has_evaluation()) next->evaluation = point.evaluation();
  next->robust_overfitting |= point.notice().reason() == "ROBUST_OVERFITTING";
  picture->metrics = std::move(next);
}

std::vector<std::string> JobPictures::WithoutSpec(size_t most) const {
  std::vector<std::string> jobs;
  for (auto at = without_spec_.begin(); at != without_spec_.end() && jobs.size() < most; ++at) {
    jobs.push_back(std::get<2>(*at));
  }
  return jobs;
}

void JobPictures::Expire(absl::Duration now) {
  for (; !ends_.empty() && ends_.begin()->first <= now; ends_.erase(ends_.begin())) Remove(ends_.begin()->second);
}

void JobPictures::Remove(const std::string& job) {
  const auto entry = entries_.find(job);
  if (entry == entries_.end()) return;
  GiveUpSpec(job);
  by_order_.erase(entry->second.order);
  entries_.erase(entry);
}

std::vector<std::shared_ptr<const JobPicture>> JobPictures::Newest(size_t most) const {
  std::vector<std::shared_ptr<const JobPicture>> pictures;
  pictures.reserve(std::min(most, by_order_.size()));
  for (auto at = by_order_.begin(); at != by_order_.end() && pictures.size() < most; ++at) {
    pictures.push_back(at->second);
  }
  return pictures;
}

}  // namespace ham::server
