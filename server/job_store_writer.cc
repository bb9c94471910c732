#include "server/job_store_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/stored_rows.h"

namespace ham::server {
namespace {

constexpr absl::Duration kRequestLife = absl::Hours(7 * 24);

}  // namespace

StoreWriter::StoreWriter(std::unique_ptr<Database> database)
    : database_(std::move(database)),
      count_(database_.get(), "UPDATE meta SET commits = ?, crc = ? WHERE term = ? AND commits = ?"),
      put_job_(database_.get(),
               "INSERT INTO jobs (name, row, crc) VALUES (?, ?, ?) "
               "ON CONFLICT (name) DO UPDATE SET row = excluded.row, crc = excluded.crc"),
      put_content_(database_.get(), "INSERT INTO contents VALUES (?, ?, ?)"),
      put_worker_(database_.get(), "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)"),
      job_id_(database_.get(), "SELECT id FROM jobs WHERE name = ?"),
      last_key_(database_.get(), "SELECT key FROM records WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1"),
      put_record_(database_.get(), "INSERT INTO records VALUES (?, ?, ?)"),
      put_spool_(database_.get(), "INSERT OR REPLACE INTO spools VALUES (?, ?, ?, ?, ?)"),
      prune_requests_(database_.get(), "DELETE FROM requests WHERE time < ?"),
      put_request_(database_.get(), "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)") {}

absl::Status StoreWriter::Commit(const StoreHead& head, const Transaction& transaction) {
  absl::Status status = database_->Execute("BEGIN IMMEDIATE");
  if (status.ok()) status = CountCommit(head);
  if (status.ok()) status = Write(transaction);
  if (status.ok()) status = database_->Execute("COMMIT");
  return status;
}

absl::Status StoreWriter::CountCommit(const StoreHead& head) {
  StoreHead next = head;
  ++next.commits;
  const absl::Status status =
      count_.Bind(1, next.commits).Bind(2, HeadCrc(next)).Bind(3, head.term).Bind(4, head.commits).Run();
  if (!status.ok() || database_->changes() == 1) return status;
  return absl::FailedPreconditionError(absl::StrCat(
      database_->path(), " was taken over by another coordinator after term ", head.term, ": stop one of them"));
}

absl::Status StoreWriter::Write(const Transaction& transaction) {
  absl::Status status;
  for (const auto& [name, row] : transaction.jobs) status.Update(Put(&put_job_, "jobs", name, SerializeJobRow(row)));
  for (const auto& [name, content] : transaction.contents) {
    status.Update(Put(&put_content_, "contents", name, SerializeContent(content)));
  }
  for (const auto& [id, row] : transaction.workers) {
    status.Update(Put(&put_worker_, "workers", id, SerializeWorkerRow(row)));
  }
  for (const auto& [job, records] : transaction.records) {
    if (status.ok()) status = WriteRecords(job, records);
  }
  for (const SpoolRow& row : transaction.spools) {
    if (status.ok()) status = WriteSpool(row);
  }
  if (status.ok()) status = WriteRequests(transaction.requests);
  return status;
}

absl::Status StoreWriter::Put(Statement* put, const char* table, const std::string& key, const std::string& row) {
  return put->Bind(1, key).Bind(2, row).Bind(3, RowCrc(table, key, row)).Run();
}

absl::Status StoreWriter::WriteRecords(const std::string& job,
                                       const std::vector<std::shared_ptr<const ham::v1::JobRecord>>& records) {
  const absl::StatusOr<int64_t> id = JobId(job);
  if (!id.ok()) return id.status();
  const absl::StatusOr<int64_t> last = LastKey(*id);
  if (!last.ok()) return last.status();
  int64_t key = *last;
  for (const auto& record : records) {
    ++key;
    if (record->sequence() != key - FirstKey(*id) + 1 || record->sequence() > kMaxSequence) {
      return absl::InternalError(absl::StrCat("record ", record->sequence(), " of ", job, " does not follow record ",
                                              key - FirstKey(*id), " of its log"));
    }
    const std::string row = record->SerializeAsString();
    const int64_t crc = RowCrc("records", RecordKey(job, record->sequence()), row);
    const absl::Status status = put_record_.Bind(1, key).Bind(2, row).Bind(3, crc).Run();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> StoreWriter::JobId(const std::string& job) {
  const absl::StatusOr<bool> row = job_id_.Bind(1, job).Step();
  const int64_t id = row.ok() && *row ? job_id_.Int(0) : 0;
  job_id_.Reset();
  if (!row.ok()) return row.status();
  if (!*row) return absl::InternalError(absl::StrCat("a record is for ", job, ", which the store does not know"));
  return id;
}

// That of sequence 0 when the log is empty.
absl::StatusOr<int64_t> StoreWriter::LastKey(int64_t job_id) {
  const absl::StatusOr<bool> row = last_key_.Bind(1, FirstKey(job_id)).Bind(2, FinalKey(job_id)).Step();
  const int64_t key = row.ok() && *row ? last_key_.Int(0) : FirstKey(job_id) - 1;
  last_key_.Reset();
  if (!row.ok()) return row.status();
  return key;
}

absl::Status StoreWriter::WriteSpool(const SpoolRow& row) {
  return put_spool_.Bind(1, row.job)
      .Bind(2, int64_t{row.attempt})
      .Bind(3, int64_t{row.rank})
      .Bind(4, row.sequence)
      .Bind(5, RowCrc("spools", SpoolKey(row.job, row.attempt, row.rank), absl::StrCat(row.sequence)))
      .Run();
}

absl::Status StoreWriter::WriteRequests(const std::vector<RequestRow>& rows) {
  if (rows.empty()) return absl::OkStatus();
  absl::Time newest = absl::InfinitePast();
  for (const RequestRow& row : rows) {
    newest = std::max(newest, row.time);
    const std::string bytes = SerializeRequest(row);
    const absl::Status status = put_request_.Bind(1, row.principal)
                                    .Bind(2, row.request_id)
                                    .Bind(3, absl::ToUnixNanos(row.time))
                                    .Bind(4, bytes)
                                    .Bind(5, RowCrc("requests", RequestKey(row.principal, row.request_id), bytes))
                                    .Run();
    if (!status.ok()) return status;
  }
  return prune_requests_.Bind(1, absl::ToUnixNanos(newest - kRequestLife)).Run();
}

}  // namespace ham::server
