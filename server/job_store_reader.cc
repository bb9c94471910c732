#include "server/job_store_reader.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "server/stored_rows.h"

namespace ham::server {
namespace {

// A damaged name is nothing that can be shown.
bool IsName(const std::string& text) {
  return text.rfind("projects/", 0) == 0 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > ' ' && c < 127; });
}

// Stands for a job whose row is lost, so that all others go on.
JobRow DamagedJob(const std::string& name, int64_t submit_index) {
  JobRow row;
  row.name = name;
  row.submit_index = submit_index;
  row.state = ham::v1::Job::FAILED;
  row.state_reason = kRowDamaged;
  row.state_message = "Its row in the database is damaged; its log is not. Restore a backup to have it again.";
  row.failure_class = ham::v1::INFRASTRUCTURE;
  row.create_time = row.end_time = absl::UnixEpoch();
  return row;
}

}  // namespace

StoreReader::StoreReader(std::unique_ptr<Database> database)
    : database_(std::move(database)),
      content_(database_.get(), "SELECT row, crc FROM contents WHERE job = ?"),
      job_id_(database_.get(), "SELECT id FROM jobs WHERE name = ?"),
      records_(database_.get(), "SELECT key, row, crc FROM records WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"),
      spool_(database_.get(), "SELECT sequence, crc FROM spools WHERE job = ? AND attempt = ? AND rank = ?"),
      request_(database_.get(), "SELECT row, crc FROM requests WHERE principal = ? AND request_id = ?") {}

absl::Status StoreReader::Probe() { return ReadHead(database_.get()).status(); }

absl::StatusOr<Store::Contents> StoreReader::Load() {
  // One state of the file for all tables.
  if (const absl::Status status = database_->Execute("BEGIN"); !status.ok()) return status;
  const absl::Cleanup end = [this] { database_->Execute("COMMIT").IgnoreError(); };
  Store::Contents contents;
  absl::Status status = LoadJobs(&contents);
  if (status.ok()) status = LoadWorkers(&contents);
  if (!status.ok()) return status;
  return contents;
}

absl::Status StoreReader::LoadJobs(Store::Contents* contents) {
  Statement all(database_.get(), "SELECT id, name, row, crc FROM jobs ORDER BY id");
  Statement last(database_.get(), "SELECT key FROM records WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1");
  std::set<int64_t> indexes;
  std::vector<std::pair<int64_t, std::string>> damaged;
  while (true) {
    const absl::StatusOr<bool> more = all.Step();
    if (!more.ok()) return more.status();
    if (!*more) break;
    const int64_t id = all.Int(0);
    const std::string name = all.Bytes(1);
    const std::string bytes = all.Bytes(2);
    JobRow row;
    if (RowCrc("jobs", name, bytes) == all.Int(3) && ParseJobRow(bytes, &row) && row.name == name) {
      indexes.insert(row.submit_index);
      contents->jobs.push_back(std::move(row));
    } else {
      if (IsName(name)) damaged.emplace_back(id, name);
      contents->damaged_jobs.push_back(std::string(DamagedRow(*database_, "jobs", name).message()));
    }
    const absl::StatusOr<bool> held = last.Bind(1, FirstKey(id)).Bind(2, FinalKey(id)).Step();
    if (!held.ok()) return held.status();
    contents->last_sequence[name] = *held ? last.Int(0) - FirstKey(id) + 1 : 0;
    last.Reset();
  }
  for (const auto& [id, name] : damaged) {
    int64_t index = id;  // jobs have their rows in the order of submission
    while (!indexes.insert(index).second) ++index;
    contents->jobs.push_back(DamagedJob(name, index));
  }
  return absl::OkStatus();
}

absl::Status StoreReader::LoadWorkers(Store::Contents* contents) {
  Statement all(database_.get(), "SELECT worker_id, row, crc FROM workers ORDER BY worker_id");
  while (true) {
    const absl::StatusOr<bool> more = all.Step();
    if (!more.ok() || !*more) return more.status();
    const std::string id = all.Bytes(0);
    const std::string bytes = all.Bytes(1);
    WorkerRow& row = contents->workers.emplace_back();
    if (RowCrc("workers", id, bytes) != all.Int(2) || !ParseWorkerRow(bytes, &row) || row.worker_id != id) {
      return DamagedRow(*database_, "workers", id);
    }
  }
}

absl::StatusOr<std::string> StoreReader::ContentBytes(const std::string& job) {
  const absl::Cleanup reset = [this] { content_.Reset(); };
  const absl::StatusOr<bool> found = content_.Bind(1, job).Step();
  if (!found.ok()) return found.status();
  if (!*found) return absl::NotFoundError(absl::StrCat("job ", job, " does not exist"));
  std::string bytes = content_.Bytes(0);
  if (RowCrc("contents", job, bytes) != content_.Int(1)) return DamagedRow(*database_, "contents", job);
  return bytes;
}

absl::StatusOr<JobContent> StoreReader::GetContent(const std::string& job) {
  const absl::StatusOr<std::string> bytes = ContentBytes(job);
  if (!bytes.ok()) return bytes.status();
  JobContent content;
  if (!ParseContent(*bytes, &content)) return DamagedRow(*database_, "contents", job);
  return content;
}

absl::StatusOr<std::map<std::string, std::string>> StoreReader::GetLabels(const std::string& job) {
  const absl::StatusOr<std::string> bytes = ContentBytes(job);
  if (!bytes.ok()) return bytes.status();
  std::map<std::string, std::string> labels;
  if (!ParseContentLabels(*bytes, &labels)) return DamagedRow(*database_, "contents", job);
  return labels;
}

absl::StatusOr<std::vector<std::shared_ptr<const ham::v1::JobRecord>>> StoreReader::ReadLog(const std::string& job,
                                                                                            int64_t after, int limit,
                                                                                            size_t bytes) {
  std::vector<std::shared_ptr<const ham::v1::JobRecord>> records;
  if (limit <= 0 || after >= kMaxSequence) return records;
  after = std::max<int64_t>(after, 0);
  const absl::Cleanup reset = [this] {
    job_id_.Reset();
    records_.Reset();
  };
  const absl::StatusOr<bool> known = job_id_.Bind(1, job).Step();
  if (!known.ok()) return known.status();
  if (!*known) return absl::NotFoundError(absl::StrCat("job ", job, " does not exist"));
  const int64_t id = job_id_.Int(0);
  records_.Bind(1, FirstKey(id) + after).Bind(2, FinalKey(id)).Bind(3, int64_t{limit});
  while (true) {
    const absl::StatusOr<bool> more = records_.Step();
    if (!more.ok()) return more.status();
    if (!*more) return records;
    const int64_t sequence = records_.Int(0) - FirstKey(id) + 1;
    if (sequence != after + 1) return MissingRecord(job, id, after);
    const std::string row = records_.Bytes(1);
    auto record = std::make_shared<ham::v1::JobRecord>();
    const std::string key = RecordKey(job, sequence);
    if (RowCrc("records", key, row) != records_.Int(2) || !record->ParseFromString(row) ||
        record->sequence() != sequence) {
      return DamagedRow(*database_, "records", key);
    }
    records.push_back(std::move(record));
    after = sequence;
    if (row.size() >= bytes) return records;
    bytes -= row.size();
  }
}

absl::Status StoreReader::MissingRecord(const std::string& job, int64_t job_id, int64_t after) {
  records_.Reset();
  const absl::StatusOr<bool> older =
      records_.Bind(1, FirstKey(job_id)).Bind(2, FirstKey(job_id) + after - 1).Bind(3, int64_t{1}).Step();
  if (!older.ok()) return older.status();
  if (*older) return DamagedRow(*database_, "records", RecordKey(job, after + 1));
  return absl::OutOfRangeError(absl::StrCat("record ", after + 1, " of ", job, " is no longer held"));
}

absl::StatusOr<int64_t> StoreReader::GetSpool(const std::string& job, int attempt, int rank) {
  const absl::Cleanup reset = [this] { spool_.Reset(); };
  const absl::StatusOr<bool> found = spool_.Bind(1, job).Bind(2, int64_t{attempt}).Bind(3, int64_t{rank}).Step();
  if (!found.ok()) return found.status();
  if (!*found) return 0;
  const int64_t sequence = spool_.Int(0);
  const std::string key = SpoolKey(job, attempt, rank);
  if (RowCrc("spools", key, absl::StrCat(sequence)) != spool_.Int(1)) return DamagedRow(*database_, "spools", key);
  return sequence;
}

absl::StatusOr<std::optional<RequestRow>> StoreReader::GetRequest(const std::string& principal,
                                                                  const std::string& request_id, absl::Time since) {
  const absl::Cleanup reset = [this] { request_.Reset(); };
  const absl::StatusOr<bool> found = request_.Bind(1, principal).Bind(2, request_id).Step();
  if (!found.ok()) return found.status();
  if (!*found) return std::nullopt;
  const std::string bytes = request_.Bytes(0);
  const std::string key = RequestKey(principal, request_id);
  RequestRow row{principal, request_id, "", "", absl::InfinitePast()};
  if (RowCrc("requests", key, bytes) != request_.Int(1) || !ParseRequest(bytes, &row)) {
    return DamagedRow(*database_, "requests", key);
  }
  if (row.time < since) return std::nullopt;
  return row;
}

}  // namespace ham::server
