// Transactions 1, 2, 3... that touch every table, and a check that a store holds a whole number of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/job_store.h"

namespace ham::server {

constexpr char kJob[] = "projects/default/jobs/j0";
constexpr size_t kAnyBytes = size_t{1} << 40;
constexpr int kRecords = 3;  // of kJob a transaction

inline std::string JobName(int n) { return absl::StrCat("projects/default/jobs/j", n); }

inline std::shared_ptr<const ham::v1::JobRecord> LogRecord(int64_t sequence, size_t bytes = 0) {
  auto record = std::make_shared<ham::v1::JobRecord>();
  record->set_sequence(sequence);
  std::string text = absl::StrCat("line ", sequence, " ");
  text.resize(std::max(text.size(), bytes), 'x');
  record->mutable_log()->set_text(text);
  return record;
}

inline JobRow NamedRow(const std::string& name, int n) {
  JobRow row;
  row.name = name;
  row.submit_index = n;
  row.attempt = n;
  return row;
}

// `bytes`: of each record's text, at least.
inline Transaction Numbered(int n, size_t bytes = 0) {
  Transaction transaction;
  transaction.jobs[kJob] = NamedRow(kJob, n);
  transaction.jobs[JobName(n)] = NamedRow(JobName(n), n);
  transaction.contents[JobName(n)].labels["n"] = absl::StrCat(n);
  transaction.workers["w"] = {.worker_id = "w", .name = "host", .incarnation = "incarnation", .session = n};
  for (int i = 1; i <= kRecords; ++i) transaction.records[kJob].push_back(LogRecord((n - 1) * kRecords + i, bytes));
  transaction.spools = {{kJob, 1, 0, n}};
  transaction.requests = {{"admin", absl::StrCat("r", n), "hash", JobName(n), absl::FromUnixSeconds(1000 + n)}};
  return transaction;
}

// How many it holds. Fails the test when that is not a whole number of them from the first on.
inline int HeldTransactions(Store* store) {
  const absl::StatusOr<Store::Contents> contents = store->Load();
  EXPECT_TRUE(contents.ok()) << contents.status();
  if (!contents.ok()) return -1;
  int n = 0;
  for (const JobRow& row : contents->jobs) n = std::max(n, row.attempt);
  EXPECT_EQ(contents->jobs.size(), n == 0 ? 0u : static_cast<size_t>(n) + 1);
  EXPECT_EQ(contents->workers.size(), n == 0 ? 0u : 1u);
  for (const WorkerRow& row : contents->workers) EXPECT_EQ(row.session, n);
  EXPECT_EQ(*store->GetSpool(kJob, 1, 0), n);
  EXPECT_EQ(absl::IsNotFound(store->GetContent(JobName(n)).status()), n == 0);
  EXPECT_TRUE(absl::IsNotFound(store->GetContent(JobName(n + 1)).status()));
  EXPECT_EQ(store->GetRequest("admin", absl::StrCat("r", n), absl::UnixEpoch())->has_value(), n > 0);
  EXPECT_FALSE(store->GetRequest("admin", absl::StrCat("r", n + 1), absl::UnixEpoch())->has_value());
  if (n == 0) return 0;
  EXPECT_EQ(contents->last_sequence.at(kJob), n * kRecords);
  const auto log = store->ReadLog(kJob, 0, (n + 1) * kRecords, kAnyBytes);
  EXPECT_TRUE(log.ok()) << log.status();
  EXPECT_EQ(log.ok() ? log->size() : 0, static_cast<size_t>(n) * kRecords);
  return n;
}

inline std::unique_ptr<JobStore> MustOpen(const std::string& path) {
  absl::StatusOr<std::unique_ptr<JobStore>> store = JobStore::Open(path);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

}  // namespace ham::server
