// Simulates the coordinator's core for as long as asked, and keeps a ledger.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/simulation/shrink.h"

namespace ham::simulation {
namespace {

constexpr int64_t kWalkEvents = 20000;
constexpr absl::Duration kHealthyWalk = absl::Hours(2);
constexpr absl::Duration kHealthyLease = absl::Seconds(3);

struct Options {
  uint64_t seed = 1;
  uint64_t walk = 0;  // seed of the only one; 0 for many
  int64_t events = 1000000;
  double hours = 10;
  double bound = 1;
  bool shrink = true;
  std::string ledger;
  std::string commit = "unknown";
};

struct Sum {
  Coverage coverage;
  int64_t walks = 0;
  int64_t events = 0;
  absl::Duration time;
  uint64_t digest = 0;
  bool kept = true;
};

// False once a promise is broken.
bool Add(const WorldOptions& world, int64_t events, absl::Duration time, bool shrink, Sum* sum) {
  std::printf("walk %lld: seed %llu\n", static_cast<long long>(sum->walks),
              static_cast<unsigned long long>(world.seed));
  std::fflush(stdout);  // a walk that takes the process along must not take its seed along
  const Walk walk = RunWalk(world, events, time);
  ++sum->walks;
  sum->events += walk.events;
  sum->time += walk.time;
  sum->digest = (sum->digest ^ walk.digest) * 0x100000001b3;
  sum->coverage.Add(walk.coverage);
  if (!walk.violation) return true;
  sum->kept = false;
  std::printf("seed %llu, %s\n", static_cast<unsigned long long>(world.seed), walk.violation->ToString().c_str());
  std::fflush(stdout);
  if (shrink) std::printf("%s", Shrink(world, events, *walk.violation).c_str());
  return false;
}

uint64_t SeedOf(uint64_t seed, int64_t walk) { return Random(seed, static_cast<uint64_t>(walk)).Next() >> 1; }

Sum RunWalks(const Options& options) {
  Sum sum;
  while (sum.events < options.events) {
    WorldOptions world;
    world.seed = options.walk != 0 ? options.walk : SeedOf(options.seed, sum.walks);
    const int64_t events = std::min(kWalkEvents, options.events - sum.events);
    if (!Add(world, events, absl::InfiniteDuration(), options.shrink, &sum) || options.walk != 0) break;
  }
  return sum;
}

Sum RunHealthy(const Options& options) {
  Sum sum;
  while (sum.time < absl::Hours(1) * options.hours) {
    WorldOptions world;
    world.seed = SeedOf(options.seed, sum.walks);
    world.healthy = true;
    world.lease = options.bound * kHealthyLease;
    world.outage_bound = kHealthyLease;
    if (!Add(world, std::numeric_limits<int64_t>::max(), kHealthyWalk, options.shrink, &sum)) break;
  }
  return sum;
}

int Report(const std::string& kind, const Options& options, const Sum& sum, double seconds) {
  std::printf("%s%lld walks, %lld events, %.1f simulated hours, %.1f s of CPU: %.0f events a second\n",
              sum.coverage.Table().c_str(), static_cast<long long>(sum.walks), static_cast<long long>(sum.events),
              absl::ToDoubleHours(sum.time), seconds, static_cast<double>(sum.events) / seconds);
  const std::string line = absl::StrFormat("%s seed=%d commit=%s walks=%d events=%d hours=%.1f digest=%016x result=%s",
                                           kind, options.seed, options.commit, sum.walks, sum.events,
                                           absl::ToDoubleHours(sum.time), sum.digest, sum.kept ? "kept" : "BROKEN");
  std::printf("%s\n", line.c_str());
  if (!options.ledger.empty()) std::ofstream(options.ledger, std::ios::app) << line << "\n";
  return sum.kept ? 0 : 1;
}

}  // namespace
}  // namespace ham::simulation

int main(int argc, char** argv) {
  using namespace ham::simulation;
  Options options;
  CLI::App app("Simulates the coordinator's core. Exit status 1 when a promise is broken: then the walk is shrunk.");
  app.require_subcommand(1);
  CLI::App* walks = app.add_subcommand("walks", "random walks with all faults, each of its own seed");
  walks->add_option("--events", options.events, "given to the core, all walks together")->capture_default_str();
  walks->add_option("--walk", options.walk, "seed of the only walk, as it was printed");
  CLI::App* healthy =
      app.add_subcommand("healthy", "recorded beat gaps and outages of up to 0.9 of a lease: nobody may be killed");
  healthy->add_option("--hours", options.hours, "simulated")->capture_default_str();
  healthy->add_option("--bound", options.bound, "share of its lease that the coordinator waits; 0.5 must kill")
      ->capture_default_str();
  for (CLI::App* command : {walks, healthy}) {
    command->add_option("--seed", options.seed, "seed of the seeds")->capture_default_str();
    command->add_flag("!--no-shrink", options.shrink, "do not look for less that fails");
    command->add_option("--append", options.ledger, "file that gets a line about this run");
    command->add_option("--commit", options.commit, "for that line");
  }
  CLI11_PARSE(app, argc, argv);
  const std::string kind = *walks ? "walks" : "healthy";
  const Sum sum = *walks ? RunWalks(options) : RunHealthy(options);
  const double seconds = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return Report(*healthy && options.bound != 1 ? absl::StrCat("healthy-bound-", options.bound) : kind, options, sum,
                seconds);
}
