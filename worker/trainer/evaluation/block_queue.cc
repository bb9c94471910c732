#include "worker/trainer/evaluation/block_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

absl::Status WrongWork(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("frame \"work\" from the agent: ", what));
}

absl::StatusOr<WorkBlock> ParseBlock(const json& block) {
  if (!block.is_object() || block.size() != 2 || !block.contains("stage") || !block.contains("rows") ||
      !block.at("stage").is_number_integer() || !block.at("rows").is_array()) {
    return WrongWork("a block is no object of \"stage\" and \"rows\"");
  }
  const auto stage = block.at("stage").get<int64_t>();
  if (stage < kCleanStage || stage > std::numeric_limits<int32_t>::max()) {
    return WrongWork(absl::StrCat("a stage is ", stage, "; -1 is the lowest"));
  }
  WorkBlock out;
  out.stage = static_cast<int32_t>(stage);
  for (const json& row : block.at("rows")) {
    const bool fits = row.is_number_unsigned() && row.get<uint64_t>() <= std::numeric_limits<uint32_t>::max();
    if (!fits) return WrongWork(absl::StrCat("a row is ", row.dump(), "; allowed are whole numbers from 0 on"));
    out.rows.push_back(row.get<uint32_t>());
  }
  return out;
}

bool Has(const std::vector<WorkBlock>& blocks, const WorkBlock& block) { return std::ranges::count(blocks, block) > 0; }

}  // namespace

absl::StatusOr<std::vector<WorkBlock>> ParseWork(const json& frame) {
  const auto blocks = frame.find("blocks");
  if (blocks == frame.end() || !blocks->is_array()) return WrongWork("\"blocks\" is no list");
  std::vector<WorkBlock> out;
  for (const json& block : *blocks) {
    absl::StatusOr<WorkBlock> parsed = ParseBlock(block);
    if (!parsed.ok()) return parsed.status();
    out.push_back(*std::move(parsed));
  }
  return out;
}

void BlockQueue::Replace(std::vector<WorkBlock> blocks) {
  absl::MutexLock lock(&mutex_);
  listed_ = std::move(blocks);
  ForgetTaken();
}

std::optional<WorkBlock> BlockQueue::Take(absl::Duration timeout) {
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return Next() != listed_.end(); };
  absl::MutexLock lock(&mutex_);
  under_work_.reset();
  ForgetTaken();
  if (mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout)) {
    under_work_ = *Next();
    taken_.push_back(*under_work_);
  }
  return under_work_;
}

void BlockQueue::ForgetTaken() {
  const auto over = [this](const WorkBlock& block)
                        ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !Has(listed_, block) && block != under_work_; };
  std::erase_if(taken_, over);
}

std::vector<WorkBlock>::const_iterator BlockQueue::Next() const {
  const auto free = [this](const WorkBlock& block) ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !Has(taken_, block); };
  return std::find_if(listed_.begin(), listed_.end(), free);
}

}  // namespace ham::trainer
