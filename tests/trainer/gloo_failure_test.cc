// Ranks in processes of their own that die or freeze: the others learn of it in bounded time.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/gloo_collective.h"

namespace ham::trainer {
namespace {

class GlooFailureTest : public ::testing::Test {
 protected:
  ~GlooFailureTest() override {
    for (const pid_t pid : peers_) Kill(pid);
  }

  // This process is rank 0.
  void Start(int world_size, absl::Duration timeout, absl::Duration patience = absl::Seconds(30)) {
    for (int rank = 1; rank < world_size; ++rank) {
      const std::string rank_text = absl::StrCat(rank), size_text = absl::StrCat(world_size);
      const std::vector<const char*> arguments{HAM_GLOO_PEER, directory_.path().c_str(), rank_text.c_str(),
                                               size_text.c_str(), nullptr};
      pid_t pid = 0;
      ASSERT_EQ(::posix_spawn(&pid, HAM_GLOO_PEER, nullptr, nullptr, const_cast<char**>(arguments.data()), environ), 0);
      peers_.push_back(pid);
    }
    GlooOptions options;
    options.world_size = world_size;
    options.timeout = timeout;
    options.patience = patience;
    const auto store = MakeFileStore(directory_.path());
    auto ranks = ConnectGloo(options, *store);
    ASSERT_TRUE(ranks.ok()) << ranks.status();
    ranks_ = *std::move(ranks);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(Sum(), world_size);
  }

  int Sum() {
    double one = 1;
    last_ = ranks_->AllReduceSum(&one, 1);
    return last_.ok() ? static_cast<int>(one) : -1;
  }

  void Kill(pid_t& pid) {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }
  void Kill(const pid_t& pid) {
    pid_t copy = pid;
    Kill(copy);
  }

  testing::TemporaryDirectory directory_;
  std::vector<pid_t> peers_;
  std::unique_ptr<Collective> ranks_;
  absl::Status last_;
};

TEST_F(GlooFailureTest, NamesAKilledPeerSoonAndRefusesTheGroupFromThenOn) {
  ASSERT_NO_FATAL_FAILURE(Start(2, absl::Seconds(30)));
  Kill(peers_[0]);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Sum(), -1);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  EXPECT_TRUE(absl::IsUnavailable(last_)) << last_;
  EXPECT_EQ(last_.message().find("sum 4 over 2 ranks: lost the connection to rank 1 ("), 0) << last_;
  EXPECT_EQ(LostRankOf(last_), 1);
  const absl::Status first = last_;
  EXPECT_EQ(ranks_->Barrier(), first);
  EXPECT_EQ(ranks_->counts().begun, 4);
  EXPECT_EQ(ranks_->counts().completed, 3);
}

TEST_F(GlooFailureTest, AllSurvivorsLearnOfAKilledPeer) {
  ASSERT_NO_FATAL_FAILURE(Start(3, absl::Seconds(30)));
  Kill(peers_[1]);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Sum(), -1);
  EXPECT_TRUE(absl::IsUnavailable(last_)) << last_;
  EXPECT_TRUE(LostRankOf(last_)) << last_;
  ranks_.reset();
  int status = 0;
  ASSERT_EQ(::waitpid(peers_[0], &status, 0), peers_[0]);  // the other survivor ends by itself
  peers_[0] = -1;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
}

TEST_F(GlooFailureTest, AFrozenPeerEndsTheCallAtTheTimeout) {
  ASSERT_NO_FATAL_FAILURE(Start(2, absl::Seconds(2)));
  ASSERT_EQ(::kill(peers_[0], SIGSTOP), 0);
  const absl::Time begin = absl::Now();
  // What the peer had sent before it froze may still complete a call.
  for (int i = 0; i < 3 && Sum() != -1; ++i) {
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(last_)) << last_;
  EXPECT_NE(last_.message().find("over 2 ranks: nothing arrived from rank 1 for 2s; it hangs"), std::string::npos)
      << last_;
  EXPECT_EQ(LostRankOf(last_), std::nullopt);  // it may be the link
  EXPECT_GE(absl::Now() - begin, absl::Seconds(1.9));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_TRUE(absl::IsDeadlineExceeded(ranks_->Barrier()));
}

TEST_F(GlooFailureTest, ABarrierWaitsForItsOwnTime) {
  ASSERT_NO_FATAL_FAILURE(Start(2, absl::Milliseconds(500), absl::Seconds(2)));
  ASSERT_EQ(::kill(peers_[0], SIGSTOP), 0);
  const absl::Time begin = absl::Now();
  absl::Status status = ranks_->Barrier();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_GE(absl::Now() - begin, absl::Seconds(1.9));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

}  // namespace
}  // namespace ham::trainer
