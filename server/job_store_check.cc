#include "server/job_store_check.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/job_store_schema.h"
#include "server/stored_rows.h"

namespace ham::server {
namespace {

using Sentences = std::vector<std::string>;

// A table whose statement gives row, crc, then what `key` reads. `good` sees key and row when the CRC is right.
template <class Key, class Good>
absl::Status CheckTable(Database* database, const char* table, const char* sql, Key key, Good good,
                        Sentences* sentences) {
  Statement all(database, sql);
  while (true) {
    const absl::StatusOr<bool> more = all.Step();
    if (!more.ok() || !*more) return more.status();
    const std::string row = all.Bytes(0);
    const std::string name = key(all);
    if (RowCrc(table, name, row) == all.Int(1) && good(name, row)) continue;
    sentences->push_back(std::string(DamagedRow(*database, table, name).message()));
  }
}

absl::Status CheckJobs(Database* database, Sentences* sentences) {
  return CheckTable(
      database, "jobs", "SELECT row, crc, name FROM jobs", [](const Statement& at) { return at.Bytes(2); },
      [](const std::string& name, const std::string& bytes) {
        JobRow row;
        return ParseJobRow(bytes, &row) && row.name == name;
      },
      sentences);
}

absl::Status CheckContents(Database* database, Sentences* sentences) {
  return CheckTable(
      database, "contents",
      // A job without its row here has an empty one, whose CRC is wrong.
      "SELECT c.row, c.crc, j.name FROM jobs AS j LEFT JOIN contents AS c ON c.job = j.name",
      [](const Statement& at) { return at.Bytes(2); },
      [](const std::string&, const std::string& bytes) {
        JobContent content;
        return ParseContent(bytes, &content);
      },
      sentences);
}

absl::Status CheckWorkers(Database* database, Sentences* sentences) {
  return CheckTable(
      database, "workers", "SELECT row, crc, worker_id FROM workers", [](const Statement& at) { return at.Bytes(2); },
      [](const std::string& id, const std::string& bytes) {
        WorkerRow row;
        return ParseWorkerRow(bytes, &row) && row.worker_id == id;
      },
      sentences);
}

absl::Status CheckRecords(Database* database, Sentences* sentences) {
  const auto key = [](const Statement& at) {
    return RecordKey(at.Bytes(2), at.Int(3) - FirstKey(at.Int(3) >> 40) + 1);
  };
  const auto good = [](const std::string& name, const std::string& bytes) {
    ham::v1::JobRecord record;
    return record.ParseFromString(bytes) && name.ends_with(absl::StrCat(" record ", record.sequence()));
  };
  const absl::Status status =
      CheckTable(database, "records",
                 "SELECT r.row, r.crc, j.name, r.key FROM records AS r LEFT JOIN jobs AS j ON j.id = r.key >> 40", key,
                 good, sentences);
  if (!status.ok()) return status;
  Statement gaps(database,
                 "SELECT j.name, max(r.key) - min(r.key) + 1 - count(*) AS missing FROM records AS r "
                 "JOIN jobs AS j ON j.id = r.key >> 40 GROUP BY j.id HAVING missing > 0");
  while (true) {
    const absl::StatusOr<bool> more = gaps.Step();
    if (!more.ok() || !*more) return more.status();
    sentences->push_back(
        absl::StrCat(database->path(), ": the log of ", gaps.Bytes(0), " lacks ", gaps.Int(1), " records"));
  }
}

absl::Status CheckSpools(Database* database, Sentences* sentences) {
  return CheckTable(
      database, "spools", "SELECT sequence, crc, job, attempt, rank FROM spools",
      [](const Statement& at) {
        return SpoolKey(at.Bytes(2), static_cast<int>(at.Int(3)), static_cast<int>(at.Int(4)));
      },
      [](const std::string&, const std::string&) { return true; }, sentences);
}

absl::Status CheckRequests(Database* database, Sentences* sentences) {
  return CheckTable(
      database, "requests", "SELECT row, crc, principal, request_id FROM requests",
      [](const Statement& at) { return RequestKey(at.Bytes(2), at.Bytes(3)); },
      [](const std::string&, const std::string& bytes) {
        RequestRow row;
        return ParseRequest(bytes, &row);
      },
      sentences);
}

absl::Status CheckHead(Database* database, Sentences*) { return ReadHead(database).status(); }

absl::Status CheckPages(Database* database, Sentences* sentences) {
  const absl::StatusOr<std::string> problem = database->QueryText("PRAGMA quick_check(1)");
  if (!problem.ok()) return problem.status();
  if (*problem != "ok") sentences->push_back(absl::StrCat(database->path(), " is damaged (", *problem, ")"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> FindDamagedRows(Database* database) {
  Sentences sentences;
  for (const auto check :
       {CheckPages, CheckHead, CheckJobs, CheckContents, CheckWorkers, CheckRecords, CheckSpools, CheckRequests}) {
    const absl::Status status = check(database, &sentences);
    if (absl::IsDataLoss(status)) {
      sentences.push_back(std::string(status.message()));
    } else if (!status.ok()) {
      return status;
    }
  }
  return sentences;
}

}  // namespace ham::server
