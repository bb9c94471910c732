#include "worker/trainer/checkpoint.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>

#include "absl/base/config.h"
#include "proto/sha256.h"
#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

using nlohmann::json;
using testing::ReadTestFile;
using testing::WriteTestFile;

Checkpoint Example() {
  Checkpoint checkpoint;
  checkpoint.info.job_attempt = 2;
  checkpoint.info.iteration = 123'456'789'012;
  checkpoint.info.epoch = 7;
  checkpoint.info.world_size = 2;
  checkpoint.info.threads_per_rank = 1;
  checkpoint.info.build_id = "0123456789ab";
  checkpoint.info.spec_digest = std::string(64, 'a');
  checkpoint.info.data_digest = std::string(64, 'd');
  checkpoint.info.model = "cnn-16-32";
  checkpoint.info.precision = "fp32";
  checkpoint.info.batch_norm = "local";
  checkpoint.info.cpu_model = "a CPU";
  checkpoint.info.cpu_instructions = "AVX2";
  checkpoint.info.libtorch = "2.0.0";
  checkpoint.parameters = at::arange(8, at::kFloat);
  checkpoint.model["conv1.weight"] = at::arange(6, at::kFloat).reshape({2, 3});
  checkpoint.model["conv1.bias"] = at::full({2}, 0.5F);
  checkpoint.state["adam.step"] = at::tensor(int64_t{9});
  checkpoint.scalars = {{"learning_rate", 0.1}, {"seed", 18446744073709551615ULL}, {"nested", {{"a", {1, 2}}}}};
  return checkpoint;
}

class CheckpointTest : public ::testing::Test {
 protected:
  std::string Write(const Checkpoint& checkpoint = Example()) {
    const auto path = WriteCheckpoint(directory_ / "c", checkpoint);
    EXPECT_TRUE(path.ok()) << path.status();
    return path.value_or("");
  }
  absl::Status Load() { return LoadCheckpoint(directory_ / "c/manifest.json").status(); }
  int64_t Entries() const {
    return std::distance(std::filesystem::directory_iterator(directory_.path()), std::filesystem::directory_iterator());
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, RoundTrips) {
  const std::string manifest = Write();
  EXPECT_EQ(manifest, directory_ / "c/manifest.json");
  const auto loaded = LoadCheckpoint(manifest);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Checkpoint expected = Example();
  EXPECT_EQ(loaded->info.job_attempt, 2);
  EXPECT_EQ(loaded->info.iteration, expected.info.iteration);
  EXPECT_EQ(loaded->info.epoch, 7);
  EXPECT_EQ(loaded->info.world_size, 2);
  EXPECT_EQ(loaded->info.threads_per_rank, 1);
  EXPECT_EQ(loaded->info.build_id, expected.info.build_id);
  EXPECT_EQ(loaded->info.spec_digest, expected.info.spec_digest);
  EXPECT_EQ(loaded->info.data_digest, expected.info.data_digest);
  EXPECT_EQ(loaded->info.parameters_digest, ParametersDigest(expected.parameters));
  EXPECT_THAT(DifferencesOf(loaded->info, expected.info), ::testing::IsEmpty());
  EXPECT_EQ(loaded->scalars, expected.scalars);
  EXPECT_TRUE(at::equal(loaded->model.at("conv1.weight"), expected.model.at("conv1.weight")));
  EXPECT_TRUE(at::equal(loaded->state.at("adam.step"), expected.state.at("adam.step")));
  EXPECT_EQ(loaded->model.size(), 2U);
  EXPECT_EQ(loaded->state.size(), 1U);
}

TEST(DifferencesOfTest, NamesEachThatRoundingDependsOnAndNothingElse) {
  const CheckpointInfo made = Example().info;
  CheckpointInfo now = made;
  now.job_attempt = now.epoch = 9;
  now.iteration = 10;
  now.parameters_digest = "other";
  EXPECT_THAT(DifferencesOf(made, now), ::testing::IsEmpty());
  now.world_size = 4;
  now.threads_per_rank = 8;
  for (std::string* text : {&now.model, &now.precision, &now.batch_norm, &now.cpu_model, &now.cpu_instructions,
                            &now.libtorch, &now.build_id}) {
    *text = "X";
  }
  EXPECT_THAT(DifferencesOf(made, now),
              ::testing::ElementsAre("2 ranks, this run has 4", "1 threads a rank, this run has 8",
                                     "the model cnn-16-32, this run has X", "precision fp32, this run has X",
                                     "batch_norm local, this run has X", "the CPU a CPU, this run has X",
                                     "CPU instructions AVX2, this run has X", "LibTorch 2.0.0, this run has X",
                                     "build 0123456789ab, this run has X"));
}

TEST_F(CheckpointTest, TheManifestNamesItsFilesWithSizeAndDigest) {
  const json manifest = json::parse(ReadTestFile(Write()));
  EXPECT_EQ(manifest.at("format_version"), 3);
  ASSERT_EQ(manifest.at("files").size(), 2U);
  for (const json& file : manifest.at("files")) {
    const std::string bytes = ReadTestFile(directory_ / "c/" + file.at("name").get<std::string>());
    EXPECT_EQ(file.at("bytes"), bytes.size());
    EXPECT_EQ(file.at("sha256"), Sha256Hex(bytes));
  }
}

TEST_F(CheckpointTest, EqualContentGivesEqualBytes) {
  const std::string first = ReadTestFile(Write());
  EXPECT_EQ(ReadTestFile(Write()), first);
}

TEST_F(CheckpointTest, ReplacesAnOlderOneAndLeavesNothingBeside) {
  Write();
  Checkpoint newer = Example();
  newer.info.epoch = 8;
  Write(newer);
  EXPECT_EQ(LoadCheckpoint(directory_ / "c/manifest.json")->info.epoch, 8);
  EXPECT_EQ(Entries(), 1);
}

TEST_F(CheckpointTest, AFailureLeavesTheOldOneUntouched) {
  Write();
  Checkpoint bad = Example();
  bad.model["x"] = at::full({1}, 1.0, at::kInt);
  EXPECT_TRUE(absl::IsInvalidArgument(WriteCheckpoint(directory_ / "c", bad).status()));
  EXPECT_TRUE(Load().ok());
}

TEST_F(CheckpointTest, RefusesScalarsThatJsonWouldChange) {
  for (const json& scalars : {json::array(), json({{"a", nullptr}}), json({{"a", {1, nullptr}}}),
                              json({{"a", std::numeric_limits<double>::quiet_NaN()}}), json({{"a", "\xff"}})}) {
    Checkpoint bad = Example();
    bad.scalars = scalars;
    EXPECT_TRUE(absl::IsInvalidArgument(WriteCheckpoint(directory_ / "c", bad).status()));
  }
  EXPECT_FALSE(std::filesystem::exists(directory_ / "c"));
}

// Limits this process while it lives. RLIMIT_FSIZE: no file grows beyond it, writes come up short, then fail.
class ResourceLimit {
 public:
  ResourceLimit(__rlimit_resource resource, rlim_t bytes)
      : resource_(resource), handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(getrlimit(resource_, &before_), 0);
    const rlimit now{bytes, before_.rlim_max};
    EXPECT_EQ(setrlimit(resource_, &now), 0);
  }
  ~ResourceLimit() {
    setrlimit(resource_, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  ResourceLimit(const ResourceLimit&) = delete;
  ResourceLimit& operator=(const ResourceLimit&) = delete;

 private:
  const __rlimit_resource resource_;
  void (*const handler_)(int);
  rlimit before_{};
};

TEST_F(CheckpointTest, AWriteThatFailsAnywhereLeavesTheOldOneAndNothingElse) {
  Checkpoint checkpoint = Example();
  checkpoint.model["more"] = at::arange(4000, at::kFloat);
  const std::string manifest = Write(checkpoint);
  for (const rlim_t bytes : {0, 1, 700, 16'000}) {  // in the first file; none; in the second; in the first
    absl::Status status;
    {
      const ResourceLimit limit(RLIMIT_FSIZE, bytes);
      status = WriteCheckpoint(directory_ / "c", checkpoint).status();
    }
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << bytes << ": " << status;
    EXPECT_TRUE(Load().ok());
    EXPECT_EQ(Entries(), 1);
  }
  EXPECT_TRUE(WriteCheckpoint(directory_ / "c", checkpoint).ok());
}

// From here on renames of this thread know no flags, as on NFS. False where the system does not allow it.
bool ForbidRenameFlags() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[4])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_F(CheckpointTest, ReplacesWhereTheFileSystemCannotExchange) {
  bool forbidden = false;
  std::thread on_nfs([&] {  // the filter is the thread's
    forbidden = ForbidRenameFlags();
    if (!forbidden) return;
    Write();
    Checkpoint newer = Example();
    newer.info.epoch = 8;
    Write(newer);
  });
  on_nfs.join();
  if (!forbidden) GTEST_SKIP() << "this system does not allow seccomp filters";
  ASSERT_TRUE(Load().ok()) << Load();
  EXPECT_EQ(LoadCheckpoint(directory_ / "c/manifest.json")->info.epoch, 8);
  EXPECT_EQ(Entries(), 1);
}

TEST_F(CheckpointTest, AFileLongerThanItMayBeIsRefusedUnread) {
  Write();
  std::filesystem::resize_file(directory_ / "c/model.safetensors", uint64_t{1} << 40);  // sparse
  EXPECT_TRUE(absl::IsDataLoss(Load())) << Load();
  Write();
  std::filesystem::resize_file(directory_ / "c/manifest.json", (1 << 20) + 1);
  EXPECT_TRUE(absl::IsDataLoss(Load()));
  EXPECT_NE(Load().message().find("more than the 1048576"), std::string::npos) << Load();
}

// Sanitizers end the program where memory does.
#if !defined(ABSL_HAVE_ADDRESS_SANITIZER) && !defined(ABSL_HAVE_THREAD_SANITIZER)
TEST_F(CheckpointTest, NoMemoryIsNoDamage) {
  constexpr uint64_t kBytes = uint64_t{15} << 30;
  const std::string path = Write();
  json manifest = json::parse(ReadTestFile(path));
  manifest["files"][0]["bytes"] = kBytes;
  WriteTestFile(path, manifest.dump());
  std::filesystem::resize_file(directory_ / "c/model.safetensors", kBytes);  // sparse
  const ResourceLimit limit(RLIMIT_AS, kBytes);
  EXPECT_TRUE(absl::IsResourceExhausted(Load())) << Load();
}
#endif

TEST_F(CheckpointTest, ADirectoryIsMadeOnce) {
  EXPECT_TRUE(MakeDirectory(directory_ / "d").ok());
  EXPECT_TRUE(MakeDirectory(directory_ / "d").ok());
  EXPECT_TRUE(std::filesystem::is_directory(directory_ / "d"));
  EXPECT_TRUE(absl::IsUnavailable(MakeDirectory(directory_ / "no/d")));
}

TEST_F(CheckpointTest, AMissingParentIsAnErrorAndLeavesNothing) {
  EXPECT_TRUE(absl::IsUnavailable(WriteCheckpoint(directory_ / "no/c", Example()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(WriteCheckpoint(directory_ / "", Example()).status()));
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(CheckpointTest, EveryCutOfEveryFileIsSeen) {
  Write();
  for (const char* name : {"c/manifest.json", "c/model.safetensors", "c/state.safetensors"}) {
    const std::string path = directory_ / name;
    const std::string whole = ReadTestFile(path);
    // The manifest's last two bytes are "}\n": without the newline it is still whole.
    const size_t cuts = whole.size() - (whole.back() == '\n' ? 1 : 0);
    for (size_t size = 0; size < cuts; ++size) {
      WriteTestFile(path, whole.substr(0, size));
      const absl::Status status = Load();
      ASSERT_TRUE(absl::IsDataLoss(status)) << name << " cut to " << size << ": " << status;
      ASSERT_NE(status.message().find(path), std::string::npos) << status;
    }
    WriteTestFile(path, whole);
    ASSERT_TRUE(Load().ok());
  }
}

TEST_F(CheckpointTest, EveryFlippedByteOfTheTensorsIsSeen) {
  Write();
  for (const char* name : {"c/model.safetensors", "c/state.safetensors"}) {
    const std::string path = directory_ / name;
    const std::string whole = ReadTestFile(path);
    for (size_t i = 0; i < whole.size(); ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
      WriteTestFile(path, damaged);
      const absl::Status status = Load();
      ASSERT_TRUE(absl::IsDataLoss(status)) << name << " byte " << i << ": " << status;
      ASSERT_NE(status.message().find(path), std::string::npos) << status;
    }
    WriteTestFile(path, whole);
  }
}

TEST_F(CheckpointTest, RefusesManifestsThatLie) {
  const std::string path = Write();
  const json good = json::parse(ReadTestFile(path));
  const auto status = [&](const auto& change) {
    json changed = good;
    change(changed);
    WriteTestFile(path, changed.dump());
    return Load();
  };
  ASSERT_TRUE(status([](json&) {}).ok());
  for (const int version : {2, 4}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status([&](json& m) { m["format_version"] = version; }))) << version;
  }
  for (const auto& [key, value] : good.items()) {
    EXPECT_TRUE(absl::IsDataLoss(status([&key = key](json& m) { m.erase(key); }))) << key;
    EXPECT_TRUE(absl::IsDataLoss(status([&key = key](json& m) { m[key] = true; }))) << key;
  }
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["more"] = 1; })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["world_size"] = 0; })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["iteration"] = -1; })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["epoch"] = 4294967297LL; })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["files"].erase(1); })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["files"][0]["name"] = "../model.safetensors"; })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["files"][1]["sha256"] = std::string(64, '0'); })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { m["files"][1]["bytes"] = 1; })));
  EXPECT_TRUE(absl::IsDataLoss(status([](json& m) { std::swap(m["files"][0], m["files"][1]); })));
}

TEST_F(CheckpointTest, AMissingFileIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(Load()));
  Write();
  std::filesystem::remove(directory_ / "c/state.safetensors");
  const absl::Status status = Load();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_NE(status.message().find("state.safetensors"), std::string::npos);
}

// Python without us: struct and json only.
TEST_F(CheckpointTest, PythonReadsTheWeights) {
  Write();
  const std::string script = directory_ / "read.py";
  WriteTestFile(script, R"(import json, struct, sys
raw = open(sys.argv[1], 'rb').read()
n = struct.unpack('<Q', raw[:8])[0]
header = json.loads(raw[8:8 + n])
data = raw[8 + n:]
assert len(raw) % 4 == 0 and n % 8 == 0
w = header['conv1.weight']
assert w['dtype'] == 'F32' and w['shape'] == [2, 3], w
assert struct.unpack('<6f', data[slice(*w['data_offsets'])]) == (0, 1, 2, 3, 4, 5)
b = header['conv1.bias']
assert struct.unpack('<2f', data[slice(*b['data_offsets'])]) == (0.5, 0.5)
assert set(header) == {'conv1.weight', 'conv1.bias'}
)");
  const std::string command = "python3 " + script + " " + (directory_ / "c/model.safetensors");
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(Sha256Test, KnowsTheStandardVectors) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace ham::trainer
