// What an attack, or the network alone, made of an image.
#pragma once

#include <cstdint>

namespace ham {

struct RowOutcome {
  bool broken = false;     // misclassified
  int32_t prediction = 0;  // there; the label if not broken; -1 where the network's output is no number
  // The smallest that was found of: true logit minus largest other. That of a broken row is where it broke.
  float margin = 0;
};

}  // namespace ham
