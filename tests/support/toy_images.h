// A small data set and model that a test trains in a second.
#pragma once

#include <memory>
#include <vector>

#include "worker/trainer/counter_rng.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/models/small_cnn.h"
#include "worker/trainer/train_spec.h"

namespace ham::testing {

// `rows` images of 1 x 8 x 8 and four classes: a bright quadrant, its number the label, on noise.
inline trainer::ImageSet ToyImages(int64_t rows, uint64_t seed) {
  std::vector<uint8_t> images(rows * 64);
  std::vector<int64_t> labels(rows);
  for (int64_t row = 0; row < rows; ++row) {
    float noise[65];
    trainer::FillUniform({.seed = seed, .sample = static_cast<uint32_t>(row)}, 0, 1, 65, noise);
    const int64_t label = static_cast<int64_t>(noise[64] * 4);
    labels[row] = label;
    for (int64_t pixel = 0; pixel < 64; ++pixel) {
      const int64_t quadrant = pixel / 32 * 2 + pixel % 8 / 4;
      images[row * 64 + pixel] = static_cast<uint8_t>(noise[pixel] * 120 + (quadrant == label ? 110 : 0));
    }
  }
  return trainer::MakeImageSet(1, 8, 8, std::move(images), std::move(labels),
                               {"upper left", "upper right", "lower left", "lower right"});
}

inline std::unique_ptr<trainer::Model> ToyModel() {
  return trainer::MakeSmallCnn({.image = {1, 8, 8}, .conv1 = 4, .conv2 = 8, .hidden = 16, .classes = 4});
}

// A job on ToyImages: HAM from epoch 2 of 3, PGD-4 with epsilon 0.1.
inline trainer::TrainSpec ToySpec() {
  trainer::TrainSpec spec;
  spec.data = {"toy", 0, 0};
  spec.method = {trainer::Method::kHam, 2, 2, 0.25, 1};
  spec.attack = {0.1, 0.04, 4, true};
  spec.optimizer.learning_rate = 0.01;
  spec.epochs = 3;
  spec.batch_size = 48;
  spec.ema_decay = 0.9;
  spec.seed = 7;
  spec.evaluation.suites = {{"pgd", 0.1, {{trainer::AttackLoss::kCrossEntropy, 5, 0.04, 1, true}}}};
  spec.evaluation.final_suites = {{"strong", 0.1, {{trainer::AttackLoss::kMargin, 5, 0.04, 2, true}}}};
  return spec;
}

}  // namespace ham::testing
