// What the ranks of an evaluation job report, in order: whatever it is, the coordinator stays up, and what it takes to
// the end makes a record.
#include <google/protobuf/stubs/logging.h>

#include "ham/v1/worker_service.pb.h"
#include "server/evaluation_pool.h"
#include "tests/fuzz/fuzz.h"
#include "tests/server/made_findings.h"

namespace ham::fuzz {
namespace {

std::string Reported(const std::vector<ham::v1::EvaluationFinding>& findings) {
  ham::v1::ReportRequest report;
  for (const ham::v1::EvaluationFinding& finding : findings) *report.add_records()->mutable_finding() = finding;
  return report.SerializeAsString();
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<ham::v1::EvaluationFinding> whole = {server::Said(server::Inputs())};
  server::EvaluationPool pool(server::Spec());
  pool.Apply(whole[0]).IgnoreError();
  pool.Retain(1, {0});
  while (!pool.done()) {
    whole.push_back(server::DoneWith(pool.WorkOf(0, absl::ZeroDuration()).at(0)));
    pool.Apply(whole.back()).IgnoreError();
  }
  return {Reported(whole), Reported({whole[0]}), Reported({whole[0], whole[1], whole[1], whole[0]}),
          Reported({server::Checked()})};
}

void TryInput(const std::string& input) {
  static auto* const quiet = google::protobuf::SetLogHandler(nullptr);  // of text that is not UTF-8
  static_cast<void>(quiet);
  ham::v1::ReportRequest report;
  if (!report.ParseFromString(input)) return;
  server::EvaluationPool pool(server::Spec());
  for (const ham::v1::SpooledRecord& record : report.records()) {
    const bool was_good = pool.status().ok();
    const absl::Status status = pool.Apply(record.finding());
    Check(status.ok() || absl::IsInvalidArgument(status), "errors are of this code");
    Check(was_good || status == pool.status(), "the first contradiction stays");
    pool.Retain(1, {0, 1});
    Check(pool.WorkOf(0, absl::ZeroDuration()).size() <= 2, "two blocks are in hand at most");
    if (const auto metrics = pool.Metrics()) {
      Check(metrics->suites(0).robust_accuracy() <= metrics->clean_accuracy(), "robust images are right ones");
    }
  }
  if (pool.done()) Check(MakeRecord(pool.Record()).ok(), "what is done makes a record");
}

}  // namespace ham::fuzz
