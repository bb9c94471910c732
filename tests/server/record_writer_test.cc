#include "server/record_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "proto/evaluation/record_file.h"
#include "proto/sha256.h"
#include "tests/support/made_record.h"
#include "tests/support/temporary_directory.h"

namespace ham::server {
namespace {

// A disk that is full for the first `failures` writes.
class FullDisk : public ArtifactStore {
 public:
  FullDisk(std::unique_ptr<ArtifactStore> disk, int failures) : disk_(std::move(disk)), failures_(failures) {}
  absl::StatusOr<Held> Query(const std::string& digest) override { return disk_->Query(digest); }
  absl::Status Put(const std::string& digest, int64_t offset, std::string_view data) override {
    if (!tried.HasBeenNotified()) tried.Notify();
    if (failures_-- > 0) return absl::ResourceExhaustedError("the disk is full");
    return disk_->Put(digest, offset, data);
  }
  absl::Status Commit(const std::string& digest, int64_t size) override { return disk_->Commit(digest, size); }
  absl::StatusOr<std::string> Read(const std::string& digest, int64_t offset, size_t most) override {
    return disk_->Read(digest, offset, most);
  }
  absl::Status Verify(const std::string& digest) override { return disk_->Verify(digest); }
  absl::StatusOr<std::vector<Item>> List() override { return disk_->List(); }
  absl::StatusOr<int64_t> RemoveIf(const std::function<bool(const Item&)>& unwanted) override {
    return disk_->RemoveIf(unwanted);
  }
  int64_t Bytes() const override { return disk_->Bytes(); }
  absl::Notification tried;

 private:
  const std::unique_ptr<ArtifactStore> disk_;
  int failures_;  // the writer's thread only
};

class RecordWriterTest : public ::testing::Test {
 protected:
  std::unique_ptr<FullDisk> Disk(int failures) {
    return std::make_unique<FullDisk>(OpenArtifactDirectory(directory_.path() + "/artifacts").value(), failures);
  }
  SigningKey Key() { return SigningKey::LoadOrCreate(directory_.path() + "/key.pem").value(); }
  static absl::StatusOr<std::string> Write(RecordWriter& writer, const EvaluationRecord& record) {
    absl::StatusOr<std::string> result;
    absl::Notification over;
    writer.Write(record, [&](absl::StatusOr<std::string> digest) {
      result = std::move(digest);
      over.Notify();
    });
    over.WaitForNotification();
    return result;
  }
  ham::testing::TemporaryDirectory directory_;
};

TEST_F(RecordWriterTest, StoresASignedRecordThatIsAlwaysTheSame) {
  const auto disk = Disk(0);
  std::string digest;
  {
    RecordWriter writer(Key(), disk.get(), absl::Milliseconds(1));
    digest = *Write(writer, ham::testing::MadeInputs());
    EXPECT_EQ(*Write(writer, ham::testing::MadeInputs()), digest);
  }
  RecordWriter later(Key(), disk.get(), absl::Milliseconds(1));
  EXPECT_EQ(*Write(later, ham::testing::MadeInputs()), digest);
  const std::string text = *disk->Read(digest, 0, 1 << 20);
  EXPECT_EQ(Sha256Hex(text), digest);
  const auto file = ParseRecordFile(text);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(RequireSigner(*file, file->signed_by).ok());
  EXPECT_EQ(RecordText(file->record), RecordText(ham::testing::MadeRecord()));
}

TEST_F(RecordWriterTest, WaitsForAFullDisk) {
  const auto disk = Disk(3);
  RecordWriter writer(Key(), disk.get(), absl::Milliseconds(1));
  EXPECT_TRUE(Write(writer, ham::testing::MadeInputs()).ok());
}

TEST_F(RecordWriterTest, StopsWhileTheDiskIsFull) {
  const auto disk = Disk(1 << 30);
  RecordWriter writer(Key(), disk.get(), absl::Hours(1));
  writer.Write(ham::testing::MadeInputs(),
               [](const absl::StatusOr<std::string>&) { ADD_FAILURE() << "it was stored"; });
  disk->tried.WaitForNotification();
  writer.Shutdown();
  writer.Write(ham::testing::MadeInputs(), [](const absl::StatusOr<std::string>&) { ADD_FAILURE() << "it goes on"; });
}

TEST_F(RecordWriterTest, SaysWhyARecordCannotBeMade) {
  const auto disk = Disk(0);
  RecordWriter writer(Key(), disk.get(), absl::Milliseconds(1));
  EvaluationRecord wrong = ham::testing::MadeInputs();
  wrong.samples.broken_by[0] = 7;
  EXPECT_EQ(Write(writer, wrong).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace ham::server
