// What a simulation has met: each arrow of the job states, each kind of refused event, each kind of fault.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/coordinator.h"
#include "tests/simulation/faults.h"

namespace ham::simulation {

// An arrow of the table in the design, and whether the core can take it yet.
struct Arrow {
  ham::v1::Job::State from;
  ham::v1::Job::State to;
  bool reachable;
};
const std::vector<Arrow>& Arrows();
bool IsArrow(ham::v1::Job::State from, ham::v1::Job::State to);

const char* NameOf(const server::Event& event);

class Coverage {
 public:
  void Count(Fault fault) { ++faults_[static_cast<size_t>(fault)]; }
  void CountArrow(ham::v1::Job::State from, ham::v1::Job::State to) { ++arrows_[{from, to}]; }
  // A refusal that Apply's contract does not name is returned as a sentence.
  std::string CountRefusal(const server::Event& event, const absl::Status& status);
  void Note(const std::string& what) { ++notes_[what]; }  // anything else worth a number

  void Add(const Coverage& other);
  // Sentences: what was met less often.
  std::vector<std::string> Missing(int64_t arrows, int64_t refusals, int64_t faults) const;
  std::string Table() const;

 private:
  std::array<int64_t, kFaultKinds> faults_ = {};
  std::map<std::pair<int, int>, int64_t> arrows_;
  std::map<std::string, int64_t> refusals_;
  std::map<std::string, int64_t> notes_;
};

}  // namespace ham::simulation
