// A trainer in the place of ham-trainer: speaks the frames, trains nothing. The last part of the job's name says what
// it does; a '-' and more text may follow, to tell jobs apart.
//
//   works       a metric for iterations 1 to 20 and a line of text, then done
//   waits       one metric, then runs until its socket ends
//   deaf        the same, and takes no SIGTERM
//   bursts      waits for the file "go" in the data root; then 200 metrics, then done
//   fails       says why in a frame, and ends with 1
//   loses       the same: the connection to rank 1
//   crashes     ends by SIGABRT
//   babbles     sends what is no frame
//   saves       writes a checkpoint, waits until it is uploaded, then done
//   resumes     sends the epoch of the manifest it was given as a metric, then done
//   tells       fails with the address by which other hosts reach it
//   shows       fails with its name and the GPUs it sees
//   placed      fails with the CPUs that it may run on
//   evaluates   says what its weights hold, then of each list of work the stages ("-1 0"), as findings of inputs, until
//               its socket ends
//   dawdles     the same, but reads work only once the file "go" is in the data root
//   shuts       the same, but takes no work: to write to it is an error
//   meets       sets rendezvous key k to the rank's number, reads it back, then done
//
// HAM_SCRIPTED_FIRST_FRAME in its environment: "foreign", it is of another build; "mute", it says nothing at all.
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "proto/sha256.h"
#include "proto/strict_json.h"
#include "proto/version.h"
#include "worker/ipc/frame.h"

namespace {

using ham::ipc::ReadFrame;
using ham::ipc::WriteFrame;
using nlohmann::json;

int g_fd = -1;
std::string g_program, g_what;

void Send(const json& frame) {
  if (!WriteFrame(g_fd, frame).ok()) std::_Exit(3);  // the agent is gone
}
json Receive() {
  const auto frame = ReadFrame(g_fd);
  if (!frame.ok()) std::_Exit(3);
  return *frame;
}
void Progress(const char* phase, int iteration) {
  Send({{"type", "progress"},
        {"phase", phase},
        {"tick", iteration},
        {"iteration", iteration},
        {"epoch", 1},
        {"collective_sequence", 0},
        {"collective_begun", 0},
        {"collective_seconds", 0}});
}
// Ends with it.
int Fail(const std::string& failure_class, const std::string& message, int lost_rank = -1) {
  Send({{"type", "failed"}, {"class", failure_class}, {"message", message}, {"lost_rank", lost_rank}});
  return 1;
}
void Metric(int iteration) {
  Send({{"type", "metric"}, {"point", {{"iteration", iteration}, {"epoch", 1}, {"train", {{"loss", "NaN"}}}}}});
}
int Done() {
  Send({{"type", "done"}});
  return 0;
}
// To the end of the socket.
int Stay() {
  while (ReadFrame(g_fd).ok()) {
  }
  return 3;
}
// Also ends when the agent does.
void AwaitFile(const std::string& path) {
  while (!std::filesystem::exists(path)) {
    pollfd entry = {g_fd, 0, 0};
    if (::poll(&entry, 1, 10) > 0) std::_Exit(3);
  }
}

int Save(const json& start) {
  const std::string folder = start.at("work_dir").get<std::string>() + "/checkpoint";
  std::filesystem::create_directory(folder);
  const std::string weights(3 << 20, 'w');
  std::ofstream(folder + "/weights") << weights;
  const json manifest = {
      {"iteration", 5},
      {"epoch", 4},
      {"files", {{{"name", "weights"}, {"sha256", ham::Sha256Hex(weights)}, {"bytes", weights.size()}}}}};
  std::ofstream(folder + "/manifest.json") << manifest.dump();
  Send({{"type", "checkpoint"}, {"manifest", folder + "/manifest.json"}, {"iteration", 5}, {"epoch", 4}});
  const json answer = Receive();
  if (answer.at("type") == "checkpoint_done" && answer.at("ok") == true) return Done();
  return Fail("INFRASTRUCTURE", answer.at("error"));
}

void Find(const std::string& inputs) { Send({{"type", "finding"}, {"finding", {{"inputs", inputs}}}}); }

int Evaluate(const json& start) {
  std::ifstream file(start.at("weights").get<std::string>(), std::ios::binary);
  Find(std::string(std::istreambuf_iterator<char>(file), {}));
  if (g_what == "shuts") ::shutdown(g_fd, SHUT_RD);
  if (g_what != "evaluates") AwaitFile(start.at("data_root").get<std::string>() + "/go");
  while (true) {
    const json work = Receive();
    if (work.at("type") != "work") return 4;
    std::string stages;
    for (const json& block : work.at("blocks")) stages += (stages.empty() ? "" : " ") + block.at("stage").dump();
    Find(stages);
  }
}

int Meet(const json& start) {
  const std::string value = std::to_string(start.at("rank").get<int>());
  Send({{"type", "store_set"}, {"id", 1}, {"key", "k"}, {"value", ham::Base64Encode(value)}});
  if (Receive().at("ok") != true) return 4;
  Send({{"type", "store_get"}, {"id", 2}, {"key", "k"}, {"timeout_seconds", 20}});
  const json answer = Receive();
  return answer.at("id") == 2 && answer.at("value") == ham::Base64Encode(value) ? Done() : 4;
}

int Run(const json& start) {
  const std::string& what = g_what;
  Progress("load", 0);
  if (what == "fails") return Fail("USER", "the data set is unknown");
  if (what == "loses") return Fail("INFRASTRUCTURE", "lost the connection to rank 1", 1);
  if (what == "crashes") std::abort();
  if (what == "babbles") return ::write(g_fd, "\5\0\0\0hello", 9) == 9 ? Stay() : 3;
  const bool evaluates = what == "evaluates" || what == "dawdles" || what == "shuts";
  Progress(evaluates ? "evaluate" : "train", 1);
  if (evaluates) return Evaluate(start);
  if (what == "works") {
    for (int i = 1; i <= 20; ++i) Metric(i);
    std::printf("all is done\n");
    return Done();
  }
  if (what == "waits" || what == "deaf") {
    Metric(1);
    return Stay();
  }
  if (what == "bursts") {
    AwaitFile(start.at("data_root").get<std::string>() + "/go");
    for (int i = 1; i <= 200; ++i) Metric(i);
    return Done();
  }
  if (what == "tells") {  // by which address it is to be reached
    return Fail("USER", "address " + start.at("address").get<std::string>());
  }
  if (what == "shows") {  // which program it is, and which GPUs it sees
    const char* gpus = std::getenv("CUDA_VISIBLE_DEVICES");
    return Fail("USER",
                g_program.substr(g_program.rfind('/') + 1) + " sees \"" + (gpus == nullptr ? "all" : gpus) + "\"");
  }
  if (what == "placed") {
    cpu_set_t cpus;
    ::sched_getaffinity(0, sizeof(cpus), &cpus);
    std::string message = "CPUs";
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &cpus)) message += " " + std::to_string(cpu);
    }
    return Fail("USER", message);
  }
  if (what == "saves") return Save(start);
  if (what == "meets") return Meet(start);
  if (what == "resumes") {
    std::ifstream file(start.at("resume_manifest").get<std::string>());
    Metric(json::parse(file).at("epoch").get<int>());
    return Done();
  }
  return 5;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || std::string(argv[1]) != "--agent-fd") return 2;
  g_program = argv[0];
  g_fd = std::atoi(argv[2]);
  const char* first = std::getenv("HAM_SCRIPTED_FIRST_FRAME");
  const std::string special = first == nullptr ? "" : first;
  if (special == "mute") return Stay();
  Send({{"type", "hello"}, {"build_id", special == "foreign" ? "000000000000" : ham::BuildId()}});
  const json start = Receive();
  if (start.at("build_id") != ham::BuildId()) return 6;
  const std::string job = start.at("job").get<std::string>();
  g_what = job.substr(job.rfind('/') + 1);
  g_what = g_what.substr(0, g_what.find('-'));
  if (g_what == "deaf") std::signal(SIGTERM, SIG_IGN);
  return Run(start);
}
