#include "worker/trainer/evaluation/evaluation_journal.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

FinishedBlock Block(int32_t stage) {
  FinishedBlock out;
  out.block = {stage, {3, 5}};
  out.outcomes = {{true, 7, -std::numeric_limits<float>::infinity()}, {false, 2, 0.1f}};
  out.seconds = 1.5;
  out.forward_passes = 11;
  out.gradient_passes = 1'000'000'000'000;
  return out;
}

class EvaluationJournalTest : public ::testing::Test {
 protected:
  // Stages of the blocks that it holds.
  absl::StatusOr<std::vector<int32_t>> Read(const std::string& inputs = "inputs") {
    std::vector<int32_t> out;
    const auto journal = EvaluationJournal::Open(path_, inputs, [&](const FinishedBlock& block) {
      out.push_back(block.block.stage);
      return absl::OkStatus();
    });
    if (!journal.ok()) return journal.status();
    return out;
  }

  void Write(int blocks) {
    auto journal = EvaluationJournal::Open(path_, "inputs", [](const FinishedBlock&) { return absl::OkStatus(); });
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (int i = 0; i < blocks; ++i) ASSERT_TRUE(journal->Append(Block(i)).ok());
  }

  std::string Text() const {
    std::ostringstream out;
    out << std::ifstream(path_).rdbuf();
    return out.str();
  }
  void SetText(const std::string& text) { std::ofstream(path_, std::ios::trunc) << text; }

  const ham::testing::TemporaryDirectory directory_;
  const std::string path_ = directory_ / "r.json.journal";
};

TEST_F(EvaluationJournalTest, GivesBackWhatWasAppended) {
  Write(1);
  const auto journal = EvaluationJournal::Open(path_, "inputs", [](const FinishedBlock& block) {
    const FinishedBlock made = Block(0);
    EXPECT_EQ(block.block.rows, made.block.rows);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(block.outcomes[i].broken, made.outcomes[i].broken);
      EXPECT_EQ(block.outcomes[i].prediction, made.outcomes[i].prediction);
      EXPECT_EQ(block.outcomes[i].margin, made.outcomes[i].margin);
    }
    EXPECT_EQ(block.seconds, 1.5);
    EXPECT_EQ(block.forward_passes, 11u);
    EXPECT_EQ(block.gradient_passes, 1'000'000'000'000u);
    return absl::OkStatus();
  });
  EXPECT_TRUE(journal.ok()) << journal.status();
}

// As a process that dies leaves it: cut anywhere.
TEST_F(EvaluationJournalTest, GoesOnFromAFileCutAnywhere) {
  Write(2);
  const std::string whole = Text();
  const size_t header = whole.find('\n') + 1, first = whole.find('\n', header) + 1;
  for (size_t size = 0; size < whole.size(); ++size) {
    SetText(whole.substr(0, size));
    EXPECT_EQ(*Read(), size < first ? std::vector<int32_t>{} : std::vector<int32_t>{0}) << size;
    Write(1);
    EXPECT_EQ(Read()->size(), size < first ? 1u : 2u) << size;
  }
}

TEST_F(EvaluationJournalTest, LeavesAFileOfSomethingElseAsItIs) {
  for (const char* text : {"notes", "notes\n", "notes\nmore\n", "{\"inputs\":\"others\""}) {
    SetText(text);
    EXPECT_EQ(Read().status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_EQ(Text(), text);
  }
}

TEST_F(EvaluationJournalTest, NamesALineThatWasChanged) {
  Write(3);
  std::string text = Text();
  const size_t place = text.find("\"stage\":1");
  ASSERT_NE(place, std::string::npos);
  text[place + 8] = '0';
  SetText(text);
  const auto read = Read();
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(read.status().message().find("line 3 is not as it was written"), std::string::npos) << read.status();
}

TEST_F(EvaluationJournalTest, RefusesOtherInputsAndASecondProcess) {
  Write(1);
  EXPECT_EQ(Read("others").status().code(), absl::StatusCode::kFailedPrecondition);
  const auto open = EvaluationJournal::Open(path_, "inputs", [](const FinishedBlock&) { return absl::OkStatus(); });
  ASSERT_TRUE(open.ok());
  EXPECT_EQ(Read().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(EvaluationJournalTest, SaysWhichLineThePlanRefuses) {
  Write(2);
  const auto journal = EvaluationJournal::Open(path_, "inputs", [](const FinishedBlock& block) {
    return block.block.stage == 1 ? absl::DataLossError("row 3 is not at stage 1") : absl::OkStatus();
  });
  EXPECT_EQ(journal.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(journal.status().message().find("line 3: row 3"), std::string::npos) << journal.status();
}

TEST_F(EvaluationJournalTest, SaysThatItCannotBeMade) {
  const auto journal =
      EvaluationJournal::Open(directory_ / "no/j", "inputs", [](const FinishedBlock&) { return absl::OkStatus(); });
  EXPECT_EQ(journal.status().message(), "cannot open " + directory_ / "no/j" + ": No such file or directory");
}

}  // namespace
}  // namespace ham::trainer
