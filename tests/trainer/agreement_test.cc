#include "worker/trainer/agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/run_ranks.h"

namespace ham::trainer {
namespace {

using ham::testing::RunRanks;
using ::testing::HasSubstr;

const RunIdentity kRun{"b", "s", "d", 1, 8, "w"};

TEST(AgreementTest, RanksOfOneRunAgree) {
  RunRanks(3, [](Collective& ranks) { EXPECT_EQ(CheckAgreement(kRun, ranks), absl::OkStatus()); });
}

TEST(AgreementTest, EveryRankNamesTheOneThatDiffersAndInWhat) {
  const std::vector<std::pair<const char*, RunIdentity>> cases = {
      {"build", {"other", "s", "d", 1, 8, "w"}},           {"spec", {"b", "other", "d", 1, 8, "w"}},
      {"data set", {"b", "s", "other", 1, 8, "w"}},        {"threads", {"b", "s", "d", 2, 8, "w"}},
      {"first iteration", {"b", "s", "d", 1, 0, "other"}}, {"weights", {"b", "s", "d", 1, 8, "other"}},
  };
  for (const auto& [what, other] : cases) {
    RunRanks(3, [&, what = what, other = other](Collective& ranks) {
      const absl::Status status = CheckAgreement(ranks.rank() == 2 ? other : kRun, ranks);
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("rank 2 has another ") + what + " than rank 0"));
    });
  }
}

TEST(AgreementTest, AGoneRankIsTheCollectivesError) {
  RunRanks(2, [](Collective& ranks) {
    if (ranks.rank() == 1) return;
    EXPECT_TRUE(absl::IsUnavailable(CheckAgreement(kRun, ranks)));
  });
}

}  // namespace
}  // namespace ham::trainer
