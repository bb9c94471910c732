// Rows of the store. The first byte says of which table the rest is.
#include "server/stored_rows.h"

#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {
namespace {

using namespace ham::server;  // NOLINT(google-build-using-namespace): one program

// Bytes that were read must, written and read again, be the same row.
template <class Row>
void RoundTrip(const std::string& bytes, bool (*parse)(const std::string&, Row*),
               std::string (*serialize)(const Row&)) {
  Row row;
  if (!parse(bytes, &row)) return;
  const std::string written = serialize(row);
  Row again;
  Check(parse(written, &again), "what is written is read again");
  Row third;
  Check(parse(serialize(again), &third) && serialize(again).size() == written.size(), "a row comes back as it was");
}

}  // namespace

std::vector<std::string> Seeds() {
  JobRow job;
  job.name = "projects/default/jobs/j1";
  job.submit_index = 7;
  job.gang = {{0, "w", 3, 1}};
  job.create_time = absl::FromUnixSeconds(1700000000);
  job.checkpoint.emplace();
  JobContent content;
  content.spec.mutable_train()->mutable_data()->set_name("fashion-mnist");
  content.labels["a"] = "b";
  RequestRow request;
  request.request_hash = "h";
  request.time = absl::FromUnixSeconds(1700000000);
  return {std::string(1, '\0') + SerializeJobRow(job), "\x01" + SerializeContent(content),
          "\x02" + SerializeWorkerRow({"w", "name", "i", 4}), "\x03" + SerializeRequest(request)};
}

void TryInput(const std::string& input) {
  if (input.empty()) return;
  const std::string bytes = input.substr(1);
  switch (static_cast<unsigned char>(input[0]) % 4) {
    case 0:
      return RoundTrip<JobRow>(bytes, ParseJobRow, SerializeJobRow);
    case 1:
      return RoundTrip<JobContent>(bytes, ParseContent, SerializeContent);
    case 2:
      return RoundTrip<WorkerRow>(bytes, ParseWorkerRow, SerializeWorkerRow);
    default:
      return RoundTrip<RequestRow>(bytes, ParseRequest, SerializeRequest);
  }
}

}  // namespace ham::fuzz
