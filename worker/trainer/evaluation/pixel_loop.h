// Loops over the pixels of an image that add up, in an order of their own, so that the compiler may vectorise them.
#pragma once

#include <cstdint>

namespace ham::trainer {

inline constexpr int kLanes = 16;  // sums side by side

// work(pixel, lane) for each pixel; those of one lane in ascending order.
template <typename Work>
void ForEachPixel(int64_t pixels, const Work& work) {
  int64_t i = 0;
  for (; i + kLanes <= pixels; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) work(i + lane, lane);
  }
  for (; i < pixels; ++i) work(i, 0);
}

template <typename T>
double SumOf(const T (&lanes)[kLanes]) {
  double sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

}  // namespace ham::trainer
