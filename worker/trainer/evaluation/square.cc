#include "worker/trainer/evaluation/square.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_or.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/take.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "worker/trainer/device.h"
#include "worker/trainer/evaluation/pixel_loop.h"
#include "worker/trainer/models/parameter_set.h"

namespace ham::trainer {
namespace {

constexpr double kFirstShare = 0.8;                                            // of the image: p_init
constexpr int kHalvings[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000};  // after these iterations
constexpr int64_t kSmallestL2Side = 3;
constexpr double kTiny = 1e-12;  // keeps a length of 0 from dividing
constexpr int64_t kMostChannels = 32;
constexpr uint32_t kStartBlock = 1u << 31;  // of random numbers: those of iterations come below
constexpr int64_t kRowsPerThread = 16;
constexpr int kIterationsPlanned = 64;
constexpr int64_t kPlacesPlanned = 5;  // numbers before the signs

RandomKey KeyOf(RandomKey key, uint32_t id) {
  key.purpose = RandomPurpose::kSquare;
  key.sample = id;
  return key;
}

int Sign(uint32_t bits, int64_t place) { return (bits >> place & 1) != 0 ? 1 : -1; }

struct Window {
  int64_t top, left;
  bool Has(int64_t y, int64_t x, int64_t side) const {
    return y >= top && y < top + side && x >= left && x < left + side;
  }
};

// What an iteration draws for a row. Windows at the lower and the right end are never drawn, as in the authors' code.
struct Draw {
  Window changed;
  Window emptied;   // l2
  bool transposed;  // l2
  uint32_t signs;   // one a channel
};

Draw DrawFor(const RandomKey& key, int iteration, int64_t side, const ImageShape& image) {
  const uint32_t block = 2 * static_cast<uint32_t>(iteration);
  const std::array<uint32_t, 4> places = RandomWords(key, block), signs = RandomWords(key, block + 1);
  const auto window = [&](int first) {
    return Window{RandomBelow(places[first], image.height - side), RandomBelow(places[first + 1], image.width - side)};
  };
  return {window(0), window(2), (signs[1] & 1) != 0, signs[0]};
}

// visit(y, x, pixel) of a window; `pixel` numbers those of all channels there, from the first.
template <typename Visit>
void ForEachOf(const Window& window, int64_t side, const ImageShape& image, const Visit& visit) {
  for (int64_t y = window.top; y < window.top + side; ++y) {
    for (int64_t x = window.left; x < window.left + side; ++x) visit(y, x, (y * image.width + x) * image.channels);
  }
}

// x, of one row, gets 2 radius up or down in the window, as far as ball and image allow.
template <typename T>
void ChangeSquare(const Draw& draw, int64_t side, const ImageShape& image, T radius, const T* clean, T* x) {
  ForEachOf(draw.changed, side, image, [&](int64_t, int64_t, int64_t first) {
    for (int64_t c = 0; c < image.channels; ++c) {
      const int64_t i = first + c;
      const T low = std::max(clean[i] - radius, T{0}), high = std::min(clean[i] + radius, T{1});
      x[i] = std::min(std::max(x[i] + 2 * radius * Sign(draw.signs, c), low), high);
    }
  });
}

// Pyramid over height x width pixels, of norm `norm`, in rows of `width`.
void PutPyramid(int64_t height, int64_t width, double norm, double* out) {
  double squares = 0;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      double value = 0;
      for (int64_t ring = std::max(std::abs(y - height / 2), std::abs(x - width / 2));
           ring < std::max(height / 2, width / 2) + 1; ++ring) {
        value += 1.0 / static_cast<double>((ring + 1) * (ring + 1));
      }
      out[y * width + x] = value;
      squares += value * value;
    }
  }
  for (int64_t i = 0; i < height * width; ++i) out[i] *= norm / std::sqrt(squares);
}

// [side * side] of norm 1: a pyramid up in the upper half, one down in the lower.
std::vector<double> Bump(int64_t side) {
  std::vector<double> out(side * side);
  const int64_t upper = side / 2;
  const double norm = upper == 0 ? 1 : std::sqrt(0.5);
  if (upper > 0) PutPyramid(upper, side, norm, out.data());
  PutPyramid(side - upper, side, -norm, out.data() + upper * side);
  return out;
}

double BumpAt(const std::vector<double>& bump, int64_t side, bool transposed, int64_t y, int64_t x) {
  return transposed ? bump[x * side + y] : bump[y * side + x];
}

template <typename T>
double LengthOf(const T* values, int64_t count) {
  T squares[kLanes] = {};
  ForEachPixel(count, [&](int64_t i, int lane) { squares[lane] += values[i] * values[i]; });
  return std::sqrt(SumOf(squares));
}

// x, of one row, becomes clip01(clean + radius d' / |d'|), where d' is d = best - clean with a bump added in one window
// and nothing left in the other. The window has, in each channel, the squared length that both had, and its share of
// what d falls short of the radius. d: [P], for its use.
template <typename T>
void MoveMass(const Draw& draw, int64_t side, const ImageShape& image, const std::vector<double>& bump, double radius,
              const T* clean, T* d, T* x) {
  const int64_t pixels = image.size();
  for (int64_t i = 0; i < pixels; ++i) d[i] = x[i] - clean[i];
  const double whole = LengthOf(d, pixels);
  std::array<double, kMostChannels> changed = {}, both = {}, now = {};
  const auto square = [&](int64_t i) { return static_cast<double>(d[i]) * d[i]; };
  ForEachOf(draw.changed, side, image, [&](int64_t, int64_t, int64_t first) {
    for (int64_t c = 0; c < image.channels; ++c) changed[c] += square(first + c);
  });
  both = changed;
  ForEachOf(draw.emptied, side, image, [&](int64_t at_y, int64_t at_x, int64_t first) {
    if (draw.changed.Has(at_y, at_x, side)) return;
    for (int64_t c = 0; c < image.channels; ++c) {
      both[c] += square(first + c);
      d[first + c] = 0;
    }
  });
  // From here on, what the window's pixels are multiplied by.
  for (int64_t c = 0; c < image.channels; ++c) changed[c] = 1 / (kTiny + std::sqrt(changed[c]));
  ForEachOf(draw.changed, side, image, [&](int64_t at_y, int64_t at_x, int64_t first) {
    const double height = BumpAt(bump, side, draw.transposed, at_y - draw.changed.top, at_x - draw.changed.left);
    for (int64_t c = 0; c < image.channels; ++c) {
      d[first + c] = static_cast<T>(height * Sign(draw.signs, c) + d[first + c] * changed[c]);
      now[c] += square(first + c);
    }
  });
  const double spare = std::max(radius * radius - whole * whole, 0.0) / static_cast<double>(image.channels);
  for (int64_t c = 0; c < image.channels; ++c) now[c] = std::sqrt(spare + both[c]) / (kTiny + std::sqrt(now[c]));
  ForEachOf(draw.changed, side, image, [&](int64_t, int64_t, int64_t first) {
    for (int64_t c = 0; c < image.channels; ++c) d[first + c] *= static_cast<T>(now[c]);
  });
  const T length = static_cast<T>(LengthOf(d, pixels) + kTiny);
  for (int64_t i = 0; i < pixels; ++i) {
    x[i] = std::min(std::max(clean[i] + d[i] / length * static_cast<T>(radius), T{0}), T{1});
  }
}

// Of one row: columns of one sign in each channel.
void PutStripes(const RandomKey& key, const ImageShape& image, float* out) {
  const int64_t width = image.width * image.channels;
  std::vector<float> row(width);
  for (int64_t i = 0; i < width; i += 128) {
    const std::array<uint32_t, 4> words = RandomWords(key, kStartBlock + static_cast<uint32_t>(i / 128));
    for (int64_t bit = 0; bit < std::min<int64_t>(128, width - i); ++bit) {
      row[i + bit] = static_cast<float>(Sign(words[bit / 32], bit % 32));
    }
  }
  for (int64_t y = 0; y < image.height; ++y) out = std::copy(row.begin(), row.end(), out);
}

// Of one row: tiles of bumps, five by five or as many more as fit; of length 1. out: zeros.
void PutTiles(const RandomKey& key, const ImageShape& image, float* out) {
  const int64_t side = std::max<int64_t>(image.height / 5, 1);
  const int64_t begin = (image.height - 5 * side) / 2;
  const std::vector<double> bump = Bump(side);
  uint32_t block = kStartBlock;
  for (int64_t top = std::max<int64_t>(begin, 0); top + side <= image.height; top += side) {
    for (int64_t left = std::max<int64_t>(begin, 0); left + side <= image.width; left += side) {
      const std::array<uint32_t, 4> words = RandomWords(key, block++);
      ForEachOf({top, left}, side, image, [&](int64_t y, int64_t x, int64_t first) {
        const auto height = static_cast<float>(BumpAt(bump, side, (words[1] & 1) != 0, y - top, x - left));
        for (int64_t c = 0; c < image.channels; ++c) out[first + c] = height * Sign(words[0], c);
      });
    }
  }
  const double length = LengthOf(out, image.size());
  for (int64_t i = 0; i < image.size(); ++i) out[i] = static_cast<float>(out[i] / (length + kTiny));
}

// [N, 1, H, W] of `side` x `side` windows that begin at top, left: [N, 1, 1, 1].
at::Tensor WindowsAt(const at::Tensor& top, const at::Tensor& left, int64_t side, const ImageShape& image) {
  const at::Tensor y = at::arange(image.height, top.options()).view({1, 1, -1, 1}) - top;
  const at::Tensor x = at::arange(image.width, top.options()).view({1, 1, 1, -1}) - left;
  return at::bitwise_and(at::bitwise_and(y >= 0, y < side), at::bitwise_and(x >= 0, x < side));
}

// [N, C, 1, 1] of [N, C, H, W].
at::Tensor SumOfChannels(const at::Tensor& images) { return at::sum(images, {2, 3}, /*keepdim=*/true); }

}  // namespace

int64_t SquareSide(Norm norm, int iteration, int64_t height, int64_t width) {
  double share = kFirstShare;
  for (const int halving : kHalvings) {
    if (iteration > halving) share /= 2;
  }
  auto side = static_cast<int64_t>(std::nearbyint(std::sqrt(share * static_cast<double>(height * width))));
  side = std::max<int64_t>(side, norm == Norm::kL2 ? kSmallestL2Side : 1);
  if (norm == Norm::kL2 && side % 2 == 0) ++side;
  return std::min({side, height, width});
}

Square::Square(NetworkPasses& passes, const AttackedRows& rows, int steps)
    : passes_(passes), rows_(rows), steps_(steps) {
  assert(rows.batch.x.size(1) <= kMostChannels);
  Aim();
}

void Square::Aim() {
  passes_.Aim(AttackLoss::kMargin, rows_.batch);
  if (OnHost(rows_.batch.x) || rows_.ball.norm == Norm::kL2) return;
  low_ = (rows_.batch.x - rows_.ball.radius).clamp_min_(0);
  high_ = (rows_.batch.x + rows_.ball.radius).clamp_max_(1);
}

AttackRun::Points Square::Next() {
  Points out;
  out.x = done_ == 0 ? Start() : OnHost(best_) ? Candidate() : CandidateOnDevice();
  out.logits = passes_.AttackLogits(out.x);
  const at::Tensor values = passes_.LossValues(out.logits);
  if (done_++ == 0) {
    best_ = out.x.clone();
    best_value_ = values;
  } else {
    Accept(out.x, values);
  }
  return out;
}

void Square::Keep(const std::vector<uint8_t>& keep) {
  rows_.batch = SelectRows(rows_.batch, keep);
  for (at::Tensor* const tensor : {&best_, &best_value_, &plan_}) {
    if (tensor->defined()) *tensor = SelectRows(*tensor, keep);
  }
  Aim();
}

at::Tensor Square::Start() const {
  const at::Tensor& clean = rows_.batch.x;
  const ImageShape image = ShapeOf(clean);
  at::Tensor direction = NewImages(clean.size(0), image).zero_();
  float* to = direction.data_ptr<float>();
  for (const uint32_t id : rows_.batch.ids) {
    const RandomKey key = KeyOf(rows_.key, id);
    if (rows_.ball.norm == Norm::kL2) {
      PutTiles(key, image, to);
    } else {
      PutStripes(key, image, to);
    }
    to += image.size();
  }
  return clean.clone().add_(ToDevice(direction, clean.device()), rows_.ball.radius).clamp_(0, 1);
}

at::Tensor Square::Candidate() {
  const ImageShape image = ShapeOf(best_);
  const Ball& ball = rows_.ball;
  const int iteration = done_ - 1;
  const int64_t side = SquareSide(ball.norm, iteration, image.height, image.width), pixels = image.size();
  if (ball.norm == Norm::kL2 && std::ssize(bump_) != side * side) bump_ = Bump(side);
  at::Tensor out = NewImages(best_.size(0), image, best_.options());
  VisitReal(out.scalar_type(), [&]<typename T>(T) {
    at::parallel_for(0, out.size(0), kRowsPerThread, [&](int64_t begin, int64_t end) {
      std::vector<T> d(pixels);
      for (int64_t row = begin; row < end; ++row) {
        const Draw draw = DrawFor(KeyOf(rows_.key, rows_.batch.ids[row]), iteration, side, image);
        const T* const clean = rows_.batch.x.const_data_ptr<T>() + row * pixels;
        T* const x = out.data_ptr<T>() + row * pixels;
        std::copy_n(best_.const_data_ptr<T>() + row * pixels, pixels, x);
        if (ball.norm == Norm::kL2) {
          MoveMass(draw, side, image, bump_, ball.radius, clean, d.data(), x);
        } else {
          ChangeSquare(draw, side, image, static_cast<T>(ball.radius), clean, x);
        }
      }
    });
  });
  return out;
}

at::Tensor Square::Plan(int first) const {
  const ImageShape image = ShapeOf(best_);
  const int count = std::min(kIterationsPlanned, steps_ - first);
  at::Tensor out = at::empty({best_.size(0), count, kPlacesPlanned + image.channels}, best_.scalar_type());
  VisitReal(out.scalar_type(), [&]<typename T>(T) {
    T* to = out.data_ptr<T>();
    for (const uint32_t id : rows_.batch.ids) {
      for (int iteration = first; iteration < first + count; ++iteration) {
        const int64_t side = SquareSide(rows_.ball.norm, iteration, image.height, image.width);
        const Draw draw = DrawFor(KeyOf(rows_.key, id), iteration, side, image);
        for (const int64_t place : {draw.changed.top, draw.changed.left, draw.emptied.top, draw.emptied.left,
                                    static_cast<int64_t>(draw.transposed)}) {
          *to++ = static_cast<T>(place);
        }
        for (int64_t c = 0; c < image.channels; ++c) *to++ = static_cast<T>(Sign(draw.signs, c));
      }
    }
  });
  return ToDevice(out, best_.device());
}

at::Tensor Square::CandidateOnDevice() {
  const ImageShape image = ShapeOf(best_);
  const double radius = rows_.ball.radius;
  const int iteration = done_ - 1;
  const int64_t side = SquareSide(rows_.ball.norm, iteration, image.height, image.width);
  if (!plan_.defined() || iteration == planned_ + plan_.size(1)) {
    plan_ = Plan(iteration);
    planned_ = iteration;
  }
  const at::Tensor plan = plan_.select(1, iteration - planned_);
  const auto place = [&](int64_t number) { return plan.narrow(1, number, 1).view({-1, 1, 1, 1}); };
  const at::Tensor signs = plan.narrow(1, kPlacesPlanned, image.channels).unsqueeze(2).unsqueeze(3);
  const at::Tensor changed = WindowsAt(place(0), place(1), side, image);
  at::Tensor out = NewImages(best_.size(0), image, best_.options());
  if (rows_.ball.norm == Norm::kLinf) {
    out.copy_(best_ + changed * (signs * (2 * radius))).clamp_(low_, high_);
    return out;
  }
  if (std::ssize(bump_) != side * side) {
    bump_ = Bump(side);
    bump_there_ = ToDevice(at::tensor(bump_, best_.scalar_type()), best_.device());
  }
  const at::Tensor emptied = WindowsAt(place(2), place(3), side, image);
  // Of the bump's pixels, beyond the window any.
  const auto within = [&](const at::Tensor& first, int64_t count, at::IntArrayRef shape) {
    return (at::arange(count, first.options()).view(shape) - first).clamp_(0, side - 1);
  };
  const at::Tensor y = within(place(0), image.height, {1, 1, -1, 1}), x = within(place(1), image.width, {1, 1, 1, -1});
  const at::Tensor pixel = at::where(place(4) > 0, x * side + y, y * side + x);
  const at::Tensor bump = at::take(bump_there_, pixel.to(at::kLong)) * signs;
  const at::Tensor d = best_ - rows_.batch.x, squares = d * d;
  const at::Tensor whole = at::sum(squares, {1, 2, 3}, /*keepdim=*/true);
  const at::Tensor both = SumOfChannels(squares * at::bitwise_or(changed, emptied));
  at::Tensor in_window = (bump + d / (SumOfChannels(squares * changed).sqrt_() + kTiny)) * changed;
  const at::Tensor length = SumOfChannels(in_window * in_window).sqrt_() + kTiny;
  const at::Tensor spare = (radius * radius - whole).clamp_min_(0) / static_cast<double>(image.channels);
  in_window = in_window / length * (spare + both).sqrt_();
  const at::Tensor next = at::where(changed, in_window, d * at::logical_not(emptied));
  const at::Tensor next_length = at::sum(next * next, {1, 2, 3}, /*keepdim=*/true).sqrt_() + kTiny;
  out.copy_(rows_.batch.x + next / next_length * radius).clamp_(0, 1);
  return out;
}

void Square::Accept(const at::Tensor& candidates, const at::Tensor& values) {
  const at::Tensor taken = at::bitwise_or(values > best_value_, values >= 0);
  ReplaceRows(taken, candidates, &best_);
  ReplaceRows(taken, values, &best_value_);
}

}  // namespace ham::trainer
