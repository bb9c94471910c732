// `hamctl eval` as a program: files in, text and exit codes out.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/evaluation/record_file.h"
#include "tests/client/hamctl.h"
#include "tests/support/made_record.h"
#include "tests/support/temporary_directory.h"

namespace ham {
namespace {

testing::Done Eval(const std::string& arguments) { return testing::Hamctl("eval " + arguments); }

class HamctlEvalTest : public ::testing::Test {
 protected:
  HamctlEvalTest() {
    EvaluationRecord other = testing::MadeInputs();
    other.model.weights_digest.assign(64, '2');
    const SigningKey key = SigningKey::LoadOrCreate(directory_ / "key.pem").value();
    const std::string file = UnsignedRecordFile(testing::MadeRecord());
    testing::WriteTestFile(a_, SignRecordFile(file, key).value());
    key_ = ReadRecordFile(a_)->signed_by;
    testing::WriteTestFile(b_, UnsignedRecordFile(*MakeRecord(other)));
    other.threat.epsilon = 0.5;
    testing::WriteTestFile(wide_, UnsignedRecordFile(*MakeRecord(other)));
  }

  const testing::TemporaryDirectory directory_;
  const std::string a_ = directory_ / "a.json", b_ = directory_ / "b.json", wide_ = directory_ / "wide.json";
  std::string key_;  // of A
};

TEST_F(HamctlEvalTest, ShowsARecord) {
  const testing::Done table = Eval("show " + a_);
  EXPECT_EQ(table.code, 0);
  EXPECT_TRUE(absl::StrContains(table.output, "robust accuracy                50.0 %")) << table.output;
  EXPECT_TRUE(absl::StrContains(Eval("show -o json " + b_).output, "\"signed_by\": \"\""));
  EXPECT_EQ(Eval("show --signed-by other " + a_).code, 1);
  EXPECT_EQ(Eval("show --signed-by " + key_ + " " + a_).code, 0);
  EXPECT_EQ(Eval("show " + (directory_ / "none.json")).code, 5);
}

TEST_F(HamctlEvalTest, SaysThatARecordWasAltered) {
  std::string altered = testing::ReadTestFile(a_);
  const size_t place = altered.find("toy CPU");
  ASSERT_NE(place, std::string::npos);
  altered[place] = 'T';
  testing::WriteTestFile(a_, altered);
  const testing::Done done = Eval("show " + a_);
  EXPECT_EQ(done.code, 1);
  EXPECT_TRUE(absl::StrContains(done.output, "the signature does not fit the record")) << done.output;
}

TEST_F(HamctlEvalTest, ComparesRecords) {
  const testing::Done table = Eval(absl::StrCat("diff ", a_, " ", b_, " --validation-class ant"));
  EXPECT_EQ(table.code, 0);
  EXPECT_TRUE(absl::StrContains(table.output, "ant, chosen beforehand: +0.00 points")) << table.output;
  EXPECT_TRUE(absl::StrContains(Eval(absl::StrCat("diff -o json ", a_, " ", b_)).output, "\"adjusted_p_value\": 1.0"));
  const testing::Done refused = Eval(absl::StrCat("diff ", a_, " ", b_, " --also-b ", wide_));
  EXPECT_EQ(refused.code, 2);
  EXPECT_TRUE(absl::StrContains(refused.output, "differ in threat.epsilon")) << refused.output;
  EXPECT_EQ(Eval(absl::StrCat("diff ", a_, " ", b_, " --also-a ", b_)).code, 0);
  EXPECT_EQ(Eval(absl::StrCat("diff ", a_, " ", b_, " --also-a ", a_)).code, 2) << "one model twice";
  EXPECT_EQ(Eval(absl::StrCat("diff ", a_, " ", b_, " --signed-by ", key_)).code, 1) << "B is unsigned";
  EXPECT_EQ(Eval(absl::StrCat("diff ", a_, " ", a_, " --signed-by ''")).code, 2);
}

TEST_F(HamctlEvalTest, ExportsAutoAttackOnly) {
  const testing::Done done = Eval("export --robustbench " + a_);
  EXPECT_EQ(done.code, 1);
  EXPECT_TRUE(absl::StrContains(done.output, a_ + ": RobustBench lists")) << done.output;
}

}  // namespace
}  // namespace ham
