// Whether the table's numbers are those of the images.
#pragma once

#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "worker/trainer/data/image_set.h"
#include "worker/trainer/data/known_data_sets.h"

namespace ham::testing {

inline void ExpectNormalization(const trainer::ImageSet& images, const std::string& name, double tolerance) {
  const trainer::Normalization& table = trainer::FindDataSet(name)->normalization;
  ASSERT_EQ(table.mean.size(), images.channels);
  ASSERT_EQ(table.standard_deviation.size(), images.channels);
  const double count = static_cast<double>(images.images.size()) / static_cast<double>(images.channels);
  for (int64_t c = 0; c < images.channels; ++c) {
    double sum = 0, squares = 0;
    for (size_t i = c; i < images.images.size(); i += images.channels) {
      const double pixel = images.images[i] / 255.0;
      sum += pixel;
      squares += pixel * pixel;
    }
    const double mean = sum / count;
    EXPECT_NEAR(mean, table.mean[c], tolerance) << name << " channel " << c;
    EXPECT_NEAR(std::sqrt(squares / count - mean * mean), table.standard_deviation[c], tolerance) << name;
  }
}

}  // namespace ham::testing
