// Figures of the input pipeline, one a line: augmentation and JPEG decoding on one core, memory of ranks that share
// data.
//   data_benchmark [--json] [IMAGE_FOLDER]
// IMAGE_FOLDER: any tree with *.JPEG files; without one that figure is left out.
#include <sys/wait.h>
#include <turbojpeg.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "worker/trainer/counter_rng.h"
#include "worker/trainer/data/augmentation.h"
#include "worker/trainer/data/data_cache.h"
#include "worker/trainer/data/jpeg.h"
#include "worker/trainer/data/source_files.h"

namespace ham::trainer {
namespace {

constexpr int64_t kCifarRows = 50'000;
constexpr int kRounds = 9;

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool as_json = false;

// One line: a figure's name, its median, least and most over the rounds.
void Print(const std::string& name, std::vector<double> values, const char* unit) {
  std::sort(values.begin(), values.end());
  const double median = values[values.size() / 2];
  if (as_json) {
    std::printf("{\"name\": \"%s\", \"median\": %.17g, \"least\": %.17g, \"most\": %.17g, \"rounds\": %zu}\n",
                name.c_str(), median, values.front(), values.back(), values.size());
  } else {
    std::printf("%s: median %.4g%s (%.4g to %.4g, %zu rounds)\n", name.c_str(), median, unit, values.front(),
                values.back(), values.size());
  }
}

ImageSet RandomCifar() {
  std::vector<uint8_t> images(kCifarRows * 3072);
  for (size_t i = 0; i < images.size(); i += 16) {
    const auto words = RandomWords({.seed = 1, .sample = static_cast<uint32_t>(i)}, 0);
    std::copy_n(reinterpret_cast<const uint8_t*>(words.data()), 16, images.data() + i);
  }
  return MakeImageSet(3, 32, 32, std::move(images), std::vector<int64_t>(kCifarRows), {"a"});
}

void BenchAugmentation() {
  const ImageSet data = RandomCifar();
  constexpr size_t kBatch = 128;
  std::vector<float> batch(kBatch * 3072);
  std::vector<double> rates;
  for (int round = -1; round < kRounds; ++round) {  // the first one warms up
    const std::vector<uint32_t> order = Permutation(1, RandomPurpose::kEpochOrder, round + 1, kCifarRows);
    const double seconds = Seconds([&] {
      for (size_t i = 0; i < order.size(); i += kBatch) {
        const std::span<const uint32_t> ids(order.data() + i, std::min(kBatch, order.size() - i));
        WriteImages(data, ids, {.crop_padding = 4, .flip = true},
                    {.seed = 1, .epoch = static_cast<uint32_t>(round + 1)}, batch.data());
      }
    });
    if (round >= 0) rates.push_back(kCifarRows / seconds);
  }
  Print("augmentation of 32 x 32 x 3, crop 4 and flip, one thread", rates, " images/s");
}

bool BenchDecoding(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".JPEG") continue;
    auto bytes = ReadSourceFile(entry.path().string(), uint64_t{1} << 26);
    if (bytes.ok()) files.push_back(*std::move(bytes));
  }
  if (files.empty()) {
    std::fprintf(stderr, "there are no *.JPEG files in %s\n", folder.c_str());
    return false;
  }
  const tjhandle bare = tjInitDecompress();
  std::vector<uint8_t> pixels;
  const auto decode_bare = [&] {
    for (const std::string& file : files) {
      const auto* const bytes = reinterpret_cast<const unsigned char*>(file.data());
      int width = 0, height = 0, subsampling = 0, colours = 0;
      tjDecompressHeader3(bare, bytes, file.size(), &width, &height, &subsampling, &colours);
      pixels.resize(static_cast<size_t>(width) * static_cast<size_t>(height) * 3);
      tjDecompress2(bare, bytes, file.size(), pixels.data(), width, 0, height, TJPF_RGB, 0);
    }
  };
  for (const int size : {32, 160, 224}) {
    JpegDecoder decoder;
    std::vector<uint8_t> out(static_cast<size_t>(size * size * 3));
    std::vector<double> shares, rates;
    for (int round = -1; round < kRounds; ++round) {
      // Bare before and after, so that a drift of the machine's speed falls out.
      const double before = Seconds(decode_bare);
      const double ours = Seconds([&] {
        for (const std::string& file : files) {
          if (!decoder.Decode("file", file, size, out.data()).ok()) std::abort();
        }
      });
      const double after = Seconds(decode_bare);
      if (round < 0) continue;
      shares.push_back((before + after) / 2 / ours * 100);
      rates.push_back(static_cast<double>(files.size()) / ours);
    }
    Print(absl::StrFormat("JPEG to %d, one thread", size), rates, " images/s");
    Print(absl::StrFormat("JPEG to %d, of a bare TurboJPEG loop", size), shares, " %");
  }
  tjDestroy(bare);
  return true;
}

// Pss of a process in MiB, from /proc/PID/smaps_rollup.
double PssMiB(pid_t pid) {
  std::ifstream file(absl::StrFormat("/proc/%d/smaps_rollup", pid));
  std::string word;
  double kib = 0;
  while (file >> word) {
    if (word == "Pss:") file >> kib;
  }
  return kib / 1024;
}

// Ranks that load the same data set and have read all of it, all alive at once; the sum of their Pss in MiB.
double PssOfRanks(int ranks, const std::string& directory, const PreparedKey& key) {
  std::vector<pid_t> children;
  int ready[2], end[2];
  if (pipe(ready) != 0 || pipe(end) != 0) std::abort();
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      close(end[1]);
      const auto set = LoadThroughCache(directory, "set.prepared", key, [](SourceDigest* digest) {
        digest->Add("set", "set");
        return absl::StatusOr<LabelledImages>(
            LabelledImages{3, 32, 32, std::string(kCifarRows * 3072, 'x'), std::vector<int64_t>(kCifarRows)});
      });
      if (!set.ok() || !set->not_shared.empty()) _exit(1);
      // What the sum is does not matter, only that every page was read.
      const auto sum = std::accumulate(set->images.begin(), set->images.end(), uint64_t{0});
      char byte = sum == 0 ? '0' : '1';
      if (write(ready[1], &byte, 1) != 1 || read(end[0], &byte, 1) != 0) _exit(1);
      _exit(0);
    }
    children.push_back(child);
  }
  double sum = 0;
  char byte = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    if (read(ready[0], &byte, 1) != 1) std::abort();
  }
  for (const pid_t child : children) sum += PssMiB(child);
  close(end[1]);
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  for (const int fd : {ready[0], ready[1], end[0]}) close(fd);
  return sum;
}

void BenchMemory() {
  const std::string directory =
      (std::filesystem::temp_directory_path() / absl::StrFormat("ham-data-benchmark-%d", getpid())).string();
  const PreparedKey key{"set/train", 3, 32, 32, {"a"}, std::string(64, 'i')};
  PssOfRanks(1, directory, key);  // makes the file
  for (const int ranks : {1, 2, 4}) {
    std::vector<double> sums;
    for (int round = 0; round < 3; ++round) sums.push_back(PssOfRanks(ranks, directory, key));
    Print(absl::StrFormat("Pss of %d ranks with one data set of 146 MiB", ranks), sums, " MiB");
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace ham::trainer

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && std::string(argv[1]) == "--json") {
    ham::trainer::as_json = true;
    --argc;
    ++argv;
  }
  ham::trainer::BenchMemory();  // first: children must not inherit what the others leave in memory
  ham::trainer::BenchAugmentation();
  return argc < 2 || ham::trainer::BenchDecoding(argv[1]) ? 0 : 1;
}
