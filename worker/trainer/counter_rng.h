// Random numbers that are functions of what they are for, not of when they are drawn: the same for any number
// of ranks and any order of rows. Generator: Philox4x32-10 (Salmon et al., 2011).
//
// All functions are pure; safe from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace ham::trainer {

// Draws for different purposes never overlap. The numbers are part of what a seed means: never reuse one.
enum class RandomPurpose : uint8_t {
  kInitialWeights = 1,
  kEpochOrder = 2,
  kAttackStart = 3,
  kRetainedEasy = 4,
  kEvaluationStart = 5,
  kAugmentation = 6,
  kValidationSplit = 7,
  kExtraOrder = 8,
  kExtraPlace = 9,
  kCutMix = 10,
  kSquare = 11,
};

// Names one stream of draws. `step` is a restart, a tensor number, or 0 (below 2^24).
struct RandomKey {
  uint64_t seed = 0;
  RandomPurpose purpose = RandomPurpose::kInitialWeights;
  uint32_t epoch = 0;
  uint32_t sample = 0;  // row number in the data set
  uint32_t step = 0;
};

// Four 32-bit words for block `block` of a stream.
std::array<uint32_t, 4> RandomWords(const RandomKey& key, uint32_t block);

// In [0, 1), multiples of 2^-24. Equals element 0 of FillUniform.
float RandomUnit(const RandomKey& key);

// Uniform in [0, count), from one word; count <= 2^32.
int64_t RandomBelow(uint32_t word, int64_t count);

// out[i] uniform in [low, high): low + (high - low) * unit, for i in [0, count).
void FillUniform(const RandomKey& key, float low, float high, int64_t count, float* out);

// out[i] normal with mean 0 and this standard deviation, by Box and Muller's transform.
void FillNormal(const RandomKey& key, float standard_deviation, int64_t count, float* out);

// A permutation of [0, rows), another for each `number`; a function of the arguments only. `rows` < 2^32.
std::vector<uint32_t> Permutation(uint64_t seed, RandomPurpose purpose, uint32_t number, int64_t rows);

}  // namespace ham::trainer
