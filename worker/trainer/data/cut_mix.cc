#include "worker/trainer/data/cut_mix.h"

#include <algorithm>
#include <cmath>

#include "worker/trainer/counter_rng.h"

namespace ham::trainer {

CutMixBox ChooseCutMix(double share, const AugmentationKey& key, uint32_t id, std::span<const uint32_t> partners,
                       int64_t height, int64_t width) {
  RandomKey random{.seed = key.seed, .purpose = RandomPurpose::kCutMix, .epoch = key.epoch, .sample = id};
  if (RandomUnit(random) >= share) return {};
  random.step = 1;
  const double side = std::sqrt(1 - RandomUnit(random));
  const auto words = RandomWords(random, 1);
  const auto box_height = static_cast<int64_t>(side * static_cast<double>(height));
  const auto box_width = static_cast<int64_t>(side * static_cast<double>(width));
  const int64_t top = RandomBelow(words[0], height) - box_height / 2;
  const int64_t left = RandomBelow(words[1], width) - box_width / 2;
  return {.partner = partners[RandomBelow(words[2], static_cast<int64_t>(partners.size()))],
          .top = std::max<int64_t>(top, 0),
          .bottom = std::min(top + box_height, height),
          .left = std::max<int64_t>(left, 0),
          .right = std::min(left + box_width, width)};
}

}  // namespace ham::trainer
