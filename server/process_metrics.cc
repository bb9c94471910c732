#include "server/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"

namespace ham::server {
namespace {

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Boot time of the host, Unix seconds.
std::optional<double> BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    double seconds = 0;
    if (line.rfind("btime ", 0) == 0 && absl::SimpleAtod(line.substr(6), &seconds)) return seconds;
  }
  return std::nullopt;
}

// Unix seconds, to a hundredth.
std::optional<double> StartTime() {
  const std::string line = FirstLine("/proc/self/stat");
  const size_t name_end = line.rfind(')');  // the name may hold anything
  const std::optional<double> boot = BootTime();
  if (name_end == std::string::npos || !boot) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;  // proc(5): the 22nd is starttime, in ticks since boot
  double ticks = 0;
  if (!absl::SimpleAtod(field, &ticks)) return std::nullopt;
  return *boot + ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

std::optional<double> ResidentBytes() {
  std::istringstream fields(FirstLine("/proc/self/statm"));
  double size = 0, resident = 0;
  if (!(fields >> size >> resident)) return std::nullopt;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

std::optional<double> OpenFiles() {
  DIR* const directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return std::nullopt;
  int count = 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count - 3;  // ".", ".." and the directory's own
}

double CpuSeconds() {
  struct rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

void AddProcessFamilies(MetricFamilies* families) {
  const auto add = [families](const char* name, const char* help, std::optional<double> value) {
    if (value) families->push_back(Scalar(name, help, *value));
  };
  static const std::optional<double> start = StartTime();
  add("process_start_time_seconds", "When the coordinator started, in seconds since the epoch.", start);
  add("process_resident_memory_bytes", "Memory of the coordinator.", ResidentBytes());
  add("process_open_fds", "Open files of the coordinator.", OpenFiles());
  families->push_back(
      Scalar("process_cpu_seconds_total", "CPU time of the coordinator.", CpuSeconds(), MetricType::Counter));
}

void AddDiskFamilies(const std::string& state_dir, MetricFamilies* families) {
  struct statvfs disk = {};
  if (::statvfs(state_dir.c_str(), &disk) != 0) return;
  const double block = static_cast<double>(disk.f_frsize);
  families->push_back(Scalar("ham_state_bytes", "Size of the file system of the state directory.",
                             block * static_cast<double>(disk.f_blocks)));
  families->push_back(Scalar("ham_state_bytes_free", "What is free of it for the coordinator.",
                             block * static_cast<double>(disk.f_bavail)));
}

}  // namespace ham::server
