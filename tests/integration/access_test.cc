// Who may call what, with and without TLS; and what is answered to everyone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "proto/version.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kClientMethods = {
    "ham.v1.JobService/CreateJob",           "ham.v1.JobService/GetJob",         "ham.v1.JobService/ListJobs",
    "ham.v1.JobService/CancelJob",           "ham.v1.JobService/WatchJob",       "ham.v1.JobService/UploadWeights",
    "ham.v1.JobService/GetEvaluationRecord", "ham.v1.ClusterService/ListWorkers"};
const std::vector<std::string> kWorkerMethods = {
    "ham.v1.WorkerService/Control",          "ham.v1.WorkerService/Report",
    "ham.v1.WorkerService/SetRendezvousKey", "ham.v1.WorkerService/GetRendezvousKey",
    "ham.v1.WorkerService/QueryArtifact",    "ham.v1.WorkerService/UploadArtifact",
    "ham.v1.WorkerService/DownloadArtifact", "ham.v1.WorkerService/CommitCheckpoint"};

class AccessTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    server_.options.insecure = !GetParam();
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
  }
  // The answer to an empty request, which every method refuses for another reason if it gets that far.
  absl::Status Try(const std::string& method, const ConnectionConfig* config) {
    return RawCall(channel(), absl::StrCat("/", method), "", config).status;
  }
  std::shared_ptr<grpc::Channel> channel() {
    if (channel_ == nullptr) channel_ = server_.NewChannel();
    return channel_;
  }

  TestServer server_;
  std::shared_ptr<grpc::Channel> channel_;
};

INSTANTIATE_TEST_SUITE_P(Transport, AccessTest, ::testing::Bool(), [](const ::testing::TestParamInfo<bool>& transport) {
  return std::string(transport.param ? "Tls" : "Plaintext");
});

TEST_P(AccessTest, AnswersVersionHealthAndReflectionWithoutAToken) {
  const auto stub = ham::v1::ClusterService::NewStub(channel());
  grpc::ClientContext context;
  SetBound(&context);
  ham::v1::GetVersionResponse version;
  ASSERT_TRUE(stub->GetVersion(&context, {}, &version).ok());
  EXPECT_EQ(version.version(), kVersion);
  EXPECT_EQ(version.build_id(), BuildId());

  const RawAnswer health = RawCall(channel(), "/grpc.health.v1.Health/Check", "", nullptr);
  EXPECT_TRUE(health.status.ok()) << health.status;
  ASSERT_EQ(health.messages.size(), 1u);
  EXPECT_EQ(health.messages[0], std::string("\x08\x01"));  // status: SERVING

  const RawAnswer services =  // list_services: "*"
      RawCall(channel(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "\x3a\x01*", nullptr);
  EXPECT_TRUE(services.status.ok()) << services.status;
  ASSERT_EQ(services.messages.size(), 1u);
  for (const char* name : {"ham.v1.JobService", "ham.v1.ClusterService", "ham.v1.WorkerService"}) {
    EXPECT_THAT(services.messages[0], HasSubstr(name));
  }
}

TEST_P(AccessTest, RefusesEveryCallWithoutAKnownToken) {
  ConnectionConfig unknown = server_.admin();
  unknown.token += "x";
  ConnectionConfig empty = server_.admin();
  empty.token = "";
  std::vector<std::string> methods = kClientMethods;
  methods.insert(methods.end(), kWorkerMethods.begin(), kWorkerMethods.end());
  for (const std::string& method : methods) {
    const absl::Status none = Try(method, nullptr);
    EXPECT_TRUE(absl::IsUnauthenticated(none)) << method << none;
    EXPECT_EQ(ReasonOf(none), "NO_TOKEN") << method;
    const absl::Status wrong = Try(method, &unknown);
    EXPECT_TRUE(absl::IsUnauthenticated(wrong)) << method << wrong;
    EXPECT_EQ(ReasonOf(wrong), "UNKNOWN_TOKEN") << method;
    EXPECT_TRUE(absl::IsUnauthenticated(Try(method, &empty))) << method;
  }
}

TEST_P(AccessTest, RefusesTheTokenOfAnotherRole) {
  for (const std::string& method : kClientMethods) {
    const absl::Status status = Try(method, &server_.worker());
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << method << status;
    EXPECT_EQ(ReasonOf(status), "WRONG_ROLE") << method;
    EXPECT_THAT(std::string(status.message()), HasSubstr("bootstrap file"));
  }
  for (const std::string& method : kWorkerMethods) {
    const absl::Status status = Try(method, &server_.admin());
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << method << status;
    EXPECT_EQ(ReasonOf(status), "WRONG_ROLE") << method;
  }
}

TEST_P(AccessTest, TakesTheRightToken) {
  Client client(server_);
  EXPECT_TRUE(client.Create(SmallRequest()).ok());
  EXPECT_TRUE(client.Workers().empty());
  const absl::Status query = Try("ham.v1.WorkerService/QueryArtifact", &server_.worker());
  EXPECT_TRUE(absl::IsInvalidArgument(query)) << query;  // no digest: past the door
}

TEST_P(AccessTest, KeepsTokensOverARestart) {
  const ConnectionConfig before = server_.admin();
  const absl::Status status = server_.Restart();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(server_.admin().token, before.token);
  EXPECT_EQ(server_.admin().ca_certificate, before.ca_certificate);
  EXPECT_EQ(server_.admin().endpoints, before.endpoints);
  for (const char* name : {"bootstrap", "worker-join"}) {
    struct stat info;
    ASSERT_EQ(::stat(server_.StatePath(name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << name;
  }
}

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_.options.insecure = false;
    ASSERT_TRUE(server_.Start().ok());
  }
  absl::Status GetVersion(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    SetBound(&context);
    ham::v1::GetVersionResponse response;
    return FromGrpc(ham::v1::ClusterService::NewStub(channel)->GetVersion(&context, {}, &response));
  }
  TestServer server_;
};

TEST_F(TlsTest, IsNotReachedInPlaintext) {
  EXPECT_TRUE(
      absl::IsUnavailable(GetVersion(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()))));
}

TEST_F(TlsTest, IsNotTrustedByTheAuthorityOfAnother) {
  TestServer other;
  other.options.insecure = false;
  ASSERT_TRUE(other.Start().ok());
  ConnectionConfig config = server_.admin();
  config.ca_certificate = other.admin().ca_certificate;
  EXPECT_TRUE(absl::IsUnavailable(GetVersion(MakeChannel(config, 0, "stranger"))));
  EXPECT_TRUE(GetVersion(server_.NewChannel()).ok());
}

TEST(ServerStart, RefusesAStateDirectoryInUse) {
  TestServer server;
  ASSERT_TRUE(server.Start().ok());
  server::ServerOptions options = server.options;
  options.listen = "127.0.0.1:0";
  server::Server second(options);
  const absl::Status status = second.Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another coordinator uses"));
}

TEST(ServerStart, SaysItsPortsAndRefusesThoseInUse) {
  TestServer server;
  const TemporaryDirectory folder;
  server.options.port_file = folder / "ports";
  server.options.metrics_listen = "127.0.0.1:0";
  ASSERT_TRUE(server.Start().ok());
  const std::string ports = ReadTestFile(folder / "ports");
  EXPECT_THAT(ports, HasSubstr(absl::StrCat("\"listen\":\"", server->address(), "\"")));
  EXPECT_THAT(ports, HasSubstr(absl::StrCat("\"metrics\":\"", server->metrics_address(), "\"")));
  TestServer second;
  second.options.listen = server->address();
  absl::Status status = second.Start();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--listen"));
  second.options.listen = "127.0.0.1:0";
  second.options.metrics_listen = server->metrics_address();
  second.Stop();
  status = second.Start();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--metrics-listen"));
  second.options.metrics_listen = "";
  second.Stop();
  EXPECT_TRUE(second.Start().ok());
}

}  // namespace
}  // namespace ham::testing
