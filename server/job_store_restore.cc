#include "server/job_store_restore.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "server/job_store_reader.h"
#include "server/job_store_schema.h"
#include "server/job_store_writer.h"
#include "server/job_view.h"

namespace ham::server {

using ham::v1::Job;

namespace {

Job::State StateAfter(const JobRow& row) {
  if (row.gang.empty() || row.state == Job::CANCELLING) return row.state;
  return IsAllowedTransition(row.state, Job::RECOVERING) ? Job::RECOVERING : Job::QUEUED;
}

std::string MessageFor(const JobRow& row, absl::Time backup_time) {
  const std::string from = absl::StrCat("Restored from the backup of ",
                                        absl::FormatTime(absl::RFC3339_sec, backup_time, absl::UTCTimeZone()));
  if (row.state == Job::CANCELLING) return absl::StrCat(from, " while its ranks were being stopped.");
  if (row.pool) return absl::StrCat(from, "; goes on with the work that its log does not hold.");
  if (!row.checkpoint) return absl::StrCat(from, "; starts again from the beginning.");
  return absl::StrCat(from, "; starts again from its checkpoint of iteration ", row.checkpoint->iteration(), ".");
}

std::shared_ptr<const ham::v1::JobRecord> EventOf(const JobRow& before, const JobRow& after, int64_t sequence,
                                                  absl::Time now) {
  auto record = std::make_shared<ham::v1::JobRecord>();
  record->set_sequence(sequence);
  *record->mutable_time() = ToTimestamp(now);
  record->set_attempt(before.attempt);
  ham::v1::JobEvent& event = *record->mutable_event();
  event.set_from_state(before.state);
  event.set_to_state(after.state);
  event.set_reason(after.state_reason);
  event.set_message(after.state_message);
  event.set_actor("restore");
  return record;
}

}  // namespace

Transaction RowsAfterRestore(const Store::Contents& contents, absl::Time backup_time, absl::Time now) {
  Transaction transaction;
  for (const WorkerRow& row : contents.workers) {
    WorkerRow& after = transaction.workers[row.worker_id] = row;
    after.session += kRestoreStep;
    after.incarnation.clear();  // so that each gets a new session, the process that runs now too
    after.incarnation_number = 0;
  }
  for (const JobRow& row : contents.jobs) {
    if (IsFinal(row.state)) continue;
    JobRow& after = transaction.jobs[row.name] = row;
    after.attempt += kRestoreStep;
    after.gang.clear();
    after.next_rank = 0;
    if (row.gang.empty()) continue;
    after.state = StateAfter(row);
    after.state_reason = "RESTORED";
    after.state_message = MessageFor(row, backup_time);
    const auto last = contents.last_sequence.find(row.name);
    const int64_t sequence = last == contents.last_sequence.end() ? 0 : last->second;
    transaction.records[row.name] = {EventOf(row, after, sequence + 1, now)};
  }
  return transaction;
}

absl::StatusOr<Store::Contents> RestoreStore(const std::string& path, absl::Time backup_time, absl::Time now,
                                             std::vector<std::string>* started_again) {
  absl::StatusOr<std::unique_ptr<Database>> database = OpenForWriting(path);
  if (!database.ok()) return database.status();
  const absl::StatusOr<StoreHead> head = BeginEpoch(database->get());
  if (!head.ok()) return head.status();
  StoreWriter writer(*std::move(database));  // closed last: then there is no log beside the file
  absl::StatusOr<std::unique_ptr<Database>> reading = Database::Open(path, Database::Mode::kReadOnly);
  if (!reading.ok()) return reading.status();
  StoreReader reader(*std::move(reading));
  const absl::StatusOr<Store::Contents> before = reader.Load();
  if (!before.ok()) return before.status();
  const Transaction changes = RowsAfterRestore(*before, backup_time, now);
  if (const absl::Status status = writer.Commit(*head, changes); !status.ok()) return status;
  for (const auto& [name, records] : changes.records) {
    if (changes.jobs.at(name).state != Job::CANCELLING) started_again->push_back(name);
  }
  return reader.Load();
}

}  // namespace ham::server
