#include "worker/trainer/models/model.h"

#include <ATen/ops/empty_strided.h>

namespace ham::trainer {

at::Tensor NewImages(int64_t rows, const ImageShape& shape) {
  return at::empty_strided({rows, shape.channels, shape.height, shape.width},
                           {shape.size(), 1, shape.width * shape.channels, shape.channels}, at::kFloat);
}

}  // namespace ham::trainer
