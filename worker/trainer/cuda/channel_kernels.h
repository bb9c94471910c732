// Kernels over images as rows of C numbers, one row a pixel: channels_last memory, N * H * W pixels.
//
// T: float, double or __nv_bfloat16 (channel_kernels.cu). Numbers a channel, [C], are float, beside doubles double. All
// pointers are of the GPU, all work is asked for in `stream`; the caller looks for launch errors.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

namespace ham::trainer::cuda {

enum class ImageType { kFloat, kDouble, kBfloat16 };

struct Pixels {
  ImageType type;
  int64_t count;     // N * H * W
  int64_t channels;  // C
};

// The pixels that count: those of the first rows. They come first.
struct TruePixels {
  const int64_t* rows;  // on the GPU; null: most_rows of them
  int64_t most_rows;
  int64_t of_row;  // H * W
};

// y = sum * scale + shift, cut at 0 where relu; sum = x + added, written too. Without `added` sum is x.
struct ScaleAndShiftArguments {
  const void *x, *added;
  const void *scale, *shift;
  bool relu;
  void *sum, *y;
};
void ScaleAndShift(const Pixels& pixels, const ScaleAndShiftArguments& of, cudaStream_t stream);

// d_x = d_y * scale, 0 where y (null: nowhere) is not above 0; plus d_sum (null: 0).
struct ScaleAndShiftBackwardArguments {
  const void *d_y, *y, *scale, *d_sum;
  void* d_x;
};
void ScaleAndShiftBackward(const Pixels& pixels, const ScaleAndShiftBackwardArguments& of, cudaStream_t stream);

// BatchNorm in training mode: sums, which may travel over ranks, and passes over the images by what these make of them.
// `partial` is scratch of PartialSums() doubles.
int64_t PartialSums(const Pixels& pixels);

struct BatchStatistics {
  double* sums;  // [2 C + 1]: of numbers, of squares, and of how many pixels
  const void *scale, *shift;
  double epsilon;
  // Made of those: nearest, slope and offset of (x - nearest) * slope + offset, [3, C]; mean and unbiased variance,
  // [C].
  void *by, *mean, *variance;
};
// Sums over the true pixels of x, or of sum = x + added as above. `alone`: and all that is made of them; else the sums
// are completed first, then FinishBatch() does that.
struct SumBatchArguments {
  const void *x, *added;
  TruePixels true_pixels;
  void* sum;
  double* partial;
  BatchStatistics statistics;
  bool alone;
};
void SumBatch(const Pixels& pixels, const SumBatchArguments& of, cudaStream_t stream);
void FinishBatch(const Pixels& pixels, const BatchStatistics& of, cudaStream_t stream);

// y of all pixels.
struct NormalizeArguments {
  const void *x, *by;
  bool relu;
  void* y;
};
void Normalize(const Pixels& pixels, const NormalizeArguments& of, cudaStream_t stream);

struct GradientStatistics {
  double* sums;              // [2 C]: of gradients behind ReLU, and of these times the normalised numbers
  const double* batch_sums;  // of BatchStatistics
  const void *scale, *by;
  double epsilon;
  // Of this rank's sums, [C]; and d_x = gradient * slope + (x - nearest) * by[0] + by[1], [2, C].
  void *d_scale, *d_shift, *gradient_by;
};
// As SumBatch() and FinishBatch().
struct SumGradientsArguments {
  const void *d_y, *x;
  bool relu;
  TruePixels true_pixels;
  double* partial;
  GradientStatistics statistics;
  bool alone;
};
void SumGradients(const Pixels& pixels, const SumGradientsArguments& of, cudaStream_t stream);
void FinishGradients(const Pixels& pixels, const GradientStatistics& of, cudaStream_t stream);

// d_x, plus d_sum (null: 0); 0 in pixels that do not count.
struct NormalizeBackwardArguments {
  const void *d_y, *x, *by, *gradient_by;
  bool relu;
  TruePixels true_pixels;
  const void* d_sum;
  void* d_x;
};
void NormalizeBackward(const Pixels& pixels, const NormalizeBackwardArguments& of, cudaStream_t stream);

}  // namespace ham::trainer::cuda
