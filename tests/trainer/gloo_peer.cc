// One rank in a process of its own, for tests that kill or freeze it:
//   gloo_peer STORE_DIRECTORY RANK WORLD_SIZE
// Sums one number with the others until that fails, then ends. The group's timeout is long, so that only a
// lost peer ends it.
#include <cstdlib>

#include "worker/trainer/gloo_collective.h"

int main(int argc, char** argv) {
  using namespace ham::trainer;
  if (argc != 4) return 2;
  const auto store = MakeFileStore(argv[1]);
  GlooOptions options;
  options.rank = std::atoi(argv[2]);
  options.world_size = std::atoi(argv[3]);
  options.timeout = absl::Seconds(30);
  auto ranks = ConnectGloo(options, *store);
  if (!ranks.ok()) return 1;
  double one = 1;
  while ((*ranks)->AllReduceSum(&one, 1).ok()) one = 1;
  return 0;
}
