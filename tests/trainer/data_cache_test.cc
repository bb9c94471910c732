#include "worker/trainer/data/data_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/data/dataset.h"

namespace ham::trainer {
namespace {

using testing::ReadTestFile;
using testing::TemporaryDirectory;
using testing::WriteTestFile;

// Writes a file that was last changed an hour ago, as files that were not just fetched are.
void WriteOldFile(const std::string& path, const std::string& bytes) {
  WriteTestFile(path, bytes);
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
}

std::string Records(const std::vector<uint8_t>& labels) {
  std::string bytes;
  for (const uint8_t label : labels) {
    bytes += '\0';
    bytes += static_cast<char>(label);
    for (int i = 0; i < 3072; ++i) bytes += static_cast<char>(label * 5 + i);
  }
  return bytes;
}

class DataCacheTest : public ::testing::Test {
 protected:
  DataCacheTest() {
    WriteOldFile(source_, Records({1, 2, 3}));
    WriteOldFile(root_ / "cifar-100/test.bin", Records({4}));
  }
  absl::StatusOr<ImageSet> Load() {
    return LoadDataSet(root_.path(), "cifar-100", Split::kTrain, {.cache_directory = cache_});
  }
  // The prepared file of the train split.
  std::string Prepared() {
    for (const auto& entry : std::filesystem::directory_iterator(cache_)) {
      if (entry.path().string().find("cifar-100-train") != std::string::npos) return entry.path().string();
    }
    return "";
  }
  void ExpectLoads(const std::vector<int64_t>& labels) {
    const auto set = Load();
    ASSERT_TRUE(set.ok()) << set.status();
    EXPECT_EQ(std::vector<int64_t>(set->labels.begin(), set->labels.end()), labels);
    EXPECT_EQ(set->not_shared, "");
    ASSERT_EQ(set->images.size(), labels.size() * 3072);
    EXPECT_EQ(set->images[1], static_cast<uint8_t>(labels[0] * 5 + 1024));
  }

  TemporaryDirectory root_;
  const std::string source_ = root_ / "cifar-100/train.bin";
  const std::string cache_ = root_ / "cache";
};

TEST_F(DataCacheTest, ReadsSourcesOnce) {
  ExpectLoads({1, 2, 3});
  const auto made = std::filesystem::last_write_time(Prepared());
  WriteOldFile(root_ / "cifar-100/test.bin", Records({9}));  // the other split's file does not matter
  const ImageSet kept = *Load();
  ExpectLoads({1, 2, 3});
  EXPECT_EQ(std::filesystem::last_write_time(Prepared()), made);
  std::filesystem::remove(Prepared());
  EXPECT_EQ(kept.labels[2], 3);  // a mapped file outlives its name
}

TEST_F(DataCacheTest, AChangedSourceIsReadAnew) {
  ExpectLoads({1, 2, 3});
  WriteOldFile(source_, Records({4, 5, 6}));
  ExpectLoads({4, 5, 6});
  WriteTestFile(root_ / "new", Records({7, 8}));
  std::filesystem::rename(root_ / "new", source_);
  ExpectLoads({7, 8});
}

TEST_F(DataCacheTest, AJustWrittenSourceIsNeverTakenForKnown) {
  for (const uint8_t label : {1, 2, 3, 4, 5, 6}) {  // same size and inode, within one tick of the file system's clock
    std::ofstream(source_, std::ios::binary | std::ios::trunc) << Records({label});
    ExpectLoads({label});
  }
}

TEST_F(DataCacheTest, EveryDamageIsFoundAndRepaired) {
  ExpectLoads({1, 2, 3});
  const std::string path = Prepared(), whole = ReadTestFile(path);
  for (size_t i = 0; i < whole.size(); i += i < 300 ? 1 : 2999) {
    if (i >= 232 && i < 300) continue;  // zeros of the header
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x41);
    WriteTestFile(path, damaged);
    ExpectLoads({1, 2, 3});
    EXPECT_EQ(ReadTestFile(path), whole) << i;
  }
  for (size_t size = 0; size < whole.size(); size += size < 300 ? 37 : 2999) {
    WriteTestFile(path, whole.substr(0, size));
    ExpectLoads({1, 2, 3});
    EXPECT_EQ(ReadTestFile(path), whole) << size;
  }
  WriteTestFile(path, whole + "x");
  ExpectLoads({1, 2, 3});
}

TEST_F(DataCacheTest, APreparedFileHasRowsOfItsOwn) {
  const PreparedKey key{"toy/train", 1, 1, 2, {"a", "b"}, std::string(64, 'e')};
  for (const int64_t extra_rows : {2, 3}) {
    const std::string bytes = PackImages(key, {1, 1, 2, "pixels", {0, 1, 0}, extra_rows}, std::string(64, 'd'));
    const auto set =
        ParsePrepared("file", key, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, nullptr);
    EXPECT_EQ(set.status().code(), extra_rows == 2 ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss);
  }
}

TEST_F(DataCacheTest, WithoutAFolderTheSetIsTheProcesssOwn) {
  WriteTestFile(root_ / "file", "");
  const auto set = LoadDataSet(root_.path(), "cifar-100", Split::kTrain, {.cache_directory = root_ / "file/cache"});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->labels[1], 2);
  EXPECT_NE(set->not_shared.find(root_ / "file/cache"), std::string::npos) << set->not_shared;
}

TEST_F(DataCacheTest, ErrorsOfTheSourceAreNotKept) {
  WriteOldFile(source_, Records({1, 100}));
  EXPECT_TRUE(absl::IsDataLoss(Load().status()));
  WriteOldFile(source_, Records({1, 99}));
  ExpectLoads({1, 99});
}

TEST_F(DataCacheTest, ProcessesThatStartTogetherReadTheSourcesOnce) {
  // Each child says whether it read the sources.
  const auto identity = FileIdentity({source_});
  const PreparedKey key{"toy/train", 3, 32, 32, {"a", "b"}, *identity};
  const auto read = [](bool* did) {
    return [did](SourceDigest* digest) -> absl::StatusOr<LabelledImages> {
      *did = true;
      digest->Add("toy", "toy");
      return LabelledImages{3, 32, 32, std::string(3072 * 200, 'x'), std::vector<int64_t>(200, 1)};
    };
  };
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      bool did = false;
      const auto set = LoadThroughCache(cache_, "toy.prepared", key, read(&did));
      _exit(!set.ok() || !set->not_shared.empty() || set->rows != 200 ? 2 : did ? 1 : 0);
    }
    children.push_back(child);
  }
  int readers = 0;
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) <= 1) << status;
    readers += WEXITSTATUS(status);
  }
  EXPECT_EQ(readers, 1);
}

TEST_F(DataCacheTest, TicksWhileItWaitsForAnotherAndWithEachChunk) {
  std::filesystem::create_directories(cache_);
  const int held = open(cache_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // by whoever prepares it
  ASSERT_EQ(flock(held, LOCK_EX), 0);
  int ticks = 0;
  LoadOptions options{.cache_directory = cache_, .tick = [&] {
                        if (++ticks == 3) close(held);
                      }};
  ASSERT_TRUE(LoadDataSet(root_.path(), "cifar-100", Split::kTrain, options).ok());
  EXPECT_EQ(ticks, 3 + 1 + 1);  // a file, and the check of what was made of it
  ticks = 0;
  options.tick = [&] { ++ticks; };
  ASSERT_TRUE(LoadDataSet(root_.path(), "cifar-100", Split::kTrain, options).ok());
  EXPECT_EQ(ticks, 1);
}

TEST_F(DataCacheTest, TheDefaultFolderIsBesideTheDataOrTheUsers) {
  EXPECT_EQ(DefaultCacheDirectory(root_.path()), root_ / ".ham-cache");
  EXPECT_TRUE(std::filesystem::is_directory(root_ / ".ham-cache"));
  WriteTestFile(root_ / "file", "");
  const char* const before = std::getenv("XDG_CACHE_HOME");
  const std::string kept = before == nullptr ? "" : before;
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  EXPECT_EQ(DefaultCacheDirectory(root_ / "file"), "/somewhere/ham/data");
  unsetenv("XDG_CACHE_HOME");
  EXPECT_TRUE(DefaultCacheDirectory(root_ / "file").ends_with("/.cache/ham/data"));
  if (before != nullptr) setenv("XDG_CACHE_HOME", kept.c_str(), 1);
}

}  // namespace
}  // namespace ham::trainer
