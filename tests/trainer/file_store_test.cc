#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/key_value_store.h"

namespace ham::trainer {
namespace {

class FileStoreTest : public ::testing::Test {
 protected:
  testing::TemporaryDirectory directory_;
  const std::unique_ptr<KeyValueStore> store_ = MakeFileStore(directory_ / "made/here");
};

TEST_F(FileStoreTest, KeepsAnyBytes) {
  const std::string value("\0a\xff\n", 4);
  ASSERT_TRUE(store_->Set("rank_0", value).ok());
  ASSERT_TRUE(store_->Set("rank_1", "").ok());
  EXPECT_EQ(*store_->Get("rank_0", absl::ZeroDuration()), value);
  EXPECT_EQ(*MakeFileStore(directory_ / "made/here")->Get("rank_1", absl::ZeroDuration()), "");
}

TEST_F(FileStoreTest, GetWaitsForTheKey) {
  absl::StatusOr<std::string> value;
  std::thread reader([&] { value = store_->Get("late", absl::Seconds(20)); });
  ASSERT_TRUE(store_->Set("late", "here").ok());
  reader.join();
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value, "here");
}

TEST_F(FileStoreTest, GetEndsAtItsTimeout) {
  const absl::Time begin = absl::Now();
  const absl::Status status = store_->Get("never", absl::Milliseconds(120)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NE(status.message().find("\"never\""), std::string::npos);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(120));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST_F(FileStoreTest, AKeyIsSetOnce) {
  ASSERT_TRUE(store_->Set("k", "1").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Set("k", "2")));
  EXPECT_EQ(*store_->Get("k", absl::ZeroDuration()), "1");
}

TEST_F(FileStoreTest, RefusesBadKeysAndLongValues) {
  for (const std::string& key :
       {std::string(), std::string("../x"), std::string("a/b"), std::string(".hidden"), std::string(129, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store_->Set(key, ""))) << key;
    EXPECT_TRUE(absl::IsInvalidArgument(store_->Get(key, absl::ZeroDuration()).status())) << key;
  }
  EXPECT_TRUE(store_->Set("long", std::string(64 << 10, 'x')).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(store_->Set("longer", std::string((64 << 10) + 1, 'x'))));
}

TEST_F(FileStoreTest, ADirectoryThatCannotBeMadeIsUnavailable) {
  testing::WriteTestFile(directory_ / "file", "");
  EXPECT_TRUE(absl::IsUnavailable(MakeFileStore(directory_ / "file/x")->Set("k", "v")));
}

}  // namespace
}  // namespace ham::trainer
