#include "server/identity.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "proto/channel.h"
#include "proto/sha256.h"
#include "server/artifact_store.h"
#include "server/certificates.h"
#include "tests/support/temporary_directory.h"

namespace ham::server {
namespace {

using ham::testing::TemporaryDirectory;

std::string HostName() {
  char host[256] = "";
  ::gethostname(host, sizeof(host) - 1);
  return host;
}

TEST(Identity, StaysTheSameAndIsPrivate) {
  const TemporaryDirectory folder;
  const absl::StatusOr<Identity> first = LoadOrCreateIdentity(folder.path(), {}, false);
  ASSERT_TRUE(first.ok()) << first.status().message();
  ASSERT_TRUE(WriteBootstrapFiles(folder.path(), *first, {"localhost:1"}).ok());
  const absl::StatusOr<Identity> second = LoadOrCreateIdentity(folder.path(), {}, false);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->admin_token, second->admin_token);
  EXPECT_EQ(first->worker_token, second->worker_token);
  EXPECT_NE(first->admin_token, first->worker_token);
  EXPECT_EQ(first->server_certificate, second->server_certificate);
  for (const char* name : {"bootstrap", "worker-join", "ca.pem", "ca.key", "server.pem", "server.key"}) {
    struct stat info;
    ASSERT_EQ(::stat((folder / name).c_str(), &info), 0) << name;
    EXPECT_EQ(info.st_mode & 0777, 0600u) << name;
  }
  EXPECT_EQ(ReadConnectionConfig(folder / "bootstrap")->token, first->admin_token);
}

TEST(Identity, AdvertisedNamesMakeANewCertificateOfTheSameAuthority) {
  const TemporaryDirectory folder;
  const absl::StatusOr<Identity> first = LoadOrCreateIdentity(folder.path(), {}, false);
  const absl::StatusOr<Identity> second = LoadOrCreateIdentity(folder.path(), {"gpu.example", "10.1.2.3"}, false);
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_EQ(first->ca_certificate, second->ca_certificate);
  EXPECT_NE(first->server_certificate, second->server_certificate);
  const absl::Time soon = absl::Now() + absl::Hours(1);
  EXPECT_FALSE(*CoversNames(first->server_certificate, first->ca_certificate, {"gpu.example"}, soon));
  EXPECT_TRUE(
      *CoversNames(second->server_certificate, first->ca_certificate, {"gpu.example", "10.1.2.3", "localhost"}, soon));
  const TemporaryDirectory other;
  const absl::StatusOr<Identity> stranger = LoadOrCreateIdentity(other.path(), {}, false);
  EXPECT_FALSE(*CoversNames(first->server_certificate, stranger->ca_certificate, {"localhost"}, soon));
}

TEST(Identity, TheCertificateLastsLongerThanACoordinatorRuns) {
  const TemporaryDirectory folder;
  const absl::StatusOr<Identity> identity = LoadOrCreateIdentity(folder.path(), {}, false);
  const absl::Time now = absl::Now();
  EXPECT_TRUE(*CoversNames(identity->server_certificate, identity->ca_certificate, {}, now + absl::Hours(24 * 1500)));
  const KeyPair authority = {identity->ca_certificate, ham::testing::ReadTestFile(folder / "ca.key")};
  // What is left of it, to whether it stays.
  for (const auto& [days, stays] : {std::pair(330, false), std::pair(400, true)}) {
    const absl::StatusOr<KeyPair> older = MakeServerCertificate(
        authority, {"localhost", "127.0.0.1", "::1", HostName()}, now - absl::Hours(24 * (5 * 365 - days)));
    ASSERT_TRUE(older.ok()) << older.status().message();
    ham::testing::WriteTestFile(folder / "server.pem", older->certificate);
    ham::testing::WriteTestFile(folder / "server.key", older->key);
    EXPECT_EQ(LoadOrCreateIdentity(folder.path(), {}, false)->server_certificate == older->certificate, stays) << days;
  }
}

TEST(Identity, MakesNoNewAuthorityBesideOneWhoseKeyIsMissing) {
  const TemporaryDirectory folder;
  const absl::StatusOr<Identity> before = LoadOrCreateIdentity(folder.path(), {}, false);
  ASSERT_EQ(::unlink((folder / "ca.key").c_str()), 0);
  const absl::Status status = LoadOrCreateIdentity(folder.path(), {}, false).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status.message();
  EXPECT_NE(status.message().find("ca.key is missing"), std::string::npos);
  EXPECT_EQ(ham::testing::ReadTestFile(folder / "ca.pem"), before->ca_certificate);
  ASSERT_EQ(::unlink((folder / "ca.pem").c_str()), 0);
  EXPECT_TRUE(LoadOrCreateIdentity(folder.path(), {}, false).ok());
}

TEST(Identity, RefusesFilesThatOthersReadAndDamagedOnes) {
  const TemporaryDirectory folder;
  const absl::StatusOr<Identity> identity = LoadOrCreateIdentity(folder.path(), {}, true);
  ASSERT_TRUE(WriteBootstrapFiles(folder.path(), *identity, {"localhost:1"}).ok());
  ASSERT_EQ(::chmod((folder / "bootstrap").c_str(), 0644), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(LoadOrCreateIdentity(folder.path(), {}, true).status()));
  ASSERT_EQ(::chmod((folder / "bootstrap").c_str(), 0600), 0);
  ham::testing::WriteTestFile(folder / "bootstrap", "{\"tok");
  EXPECT_TRUE(absl::IsDataLoss(LoadOrCreateIdentity(folder.path(), {}, true).status()));
}

TEST(Identity, ResetAdminChangesTheTokenWhileNoCoordinatorRuns) {
  const TemporaryDirectory folder;
  EXPECT_TRUE(absl::IsNotFound(ResetAdmin(folder.path())));
  const absl::StatusOr<Identity> before = LoadOrCreateIdentity(folder.path(), {}, false);
  ASSERT_TRUE(WriteBootstrapFiles(folder.path(), *before, {"localhost:1"}).ok());
  {
    const absl::StatusOr<StateLock> lock = StateLock::Acquire(folder.path());
    ASSERT_TRUE(lock.ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(ResetAdmin(folder.path())));
  }
  ASSERT_TRUE(ResetAdmin(folder.path()).ok());
  const absl::StatusOr<Identity> after = LoadOrCreateIdentity(folder.path(), {}, false);
  EXPECT_NE(after->admin_token, before->admin_token);
  EXPECT_EQ(after->worker_token, before->worker_token);
}

TEST(ArtifactDirectory, ResumesVerifiesAndReads) {
  const TemporaryDirectory folder;
  const std::string text = "weights and more";
  const std::string digest = Sha256Hex(text);
  {
    const auto store = OpenArtifactDirectory(folder / "artifacts");
    ASSERT_TRUE((*store)->Put(digest, 0, text.substr(0, 7)).ok());
    EXPECT_TRUE(absl::IsNotFound((*store)->Read(digest, 0, 100).status()));
  }
  const auto store = OpenArtifactDirectory(folder / "artifacts");  // as after a kill
  EXPECT_EQ((*store)->Query(digest)->offset, 7);
  EXPECT_TRUE(absl::IsOutOfRange((*store)->Put(digest, 3, "x")));
  EXPECT_TRUE(absl::IsOutOfRange((*store)->Commit(digest, static_cast<int64_t>(text.size()))));
  ASSERT_TRUE((*store)->Put(digest, 7, text.substr(7)).ok());
  ASSERT_TRUE((*store)->Commit(digest, static_cast<int64_t>(text.size())).ok());
  EXPECT_TRUE((*store)->Query(digest)->complete);
  EXPECT_EQ(*(*store)->Read(digest, 8, 3), text.substr(8, 3));
  EXPECT_EQ(*(*store)->Read(digest, 100, 3), "");
  EXPECT_TRUE((*store)->Put(digest, 0, text).ok());
}

TEST(ArtifactDirectory, IsMadeAgainWhenItWasRemoved) {
  const TemporaryDirectory folder;
  const auto store = OpenArtifactDirectory(folder / "artifacts");
  const std::string digest = Sha256Hex("weights");
  ASSERT_TRUE((*store)->Put(digest, 0, "wei").ok());
  std::filesystem::remove_all(folder / "artifacts");
  EXPECT_EQ((*store)->Query(digest)->offset, 0);
  ASSERT_TRUE((*store)->Put(digest, 0, "weights").ok());
  ASSERT_TRUE((*store)->Commit(digest, 7).ok());
  EXPECT_EQ(*(*store)->Read(digest, 0, 100), "weights");
}

TEST(ArtifactDirectory, DropsWhatIsNotItsDigest) {
  const TemporaryDirectory folder;
  const auto store = OpenArtifactDirectory(folder / "artifacts");
  const std::string digest = Sha256Hex("right");
  ASSERT_TRUE((*store)->Put(digest, 0, "wrong").ok());
  EXPECT_TRUE(absl::IsDataLoss((*store)->Commit(digest, 5)));
  EXPECT_EQ((*store)->Query(digest)->offset, 0);
  for (const char* hostile : {"", "../../etc/passwd", "ABCD"}) {
    EXPECT_TRUE(absl::IsInvalidArgument((*store)->Query(hostile).status())) << hostile;
    EXPECT_TRUE(absl::IsInvalidArgument((*store)->Put(hostile, 0, "x"))) << hostile;
  }
}

}  // namespace
}  // namespace ham::server
