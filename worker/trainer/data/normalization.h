// What a network does to pixels first.
#pragma once

#include <vector>

namespace ham::trainer {

// Per channel: the network sees (x - mean) / standard_deviation, x in [0, 1].
struct Normalization {
  std::vector<double> mean;
  std::vector<double> standard_deviation;
};

}  // namespace ham::trainer
