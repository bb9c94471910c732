#include "worker/trainer/models/model.h"

#include <ATen/ops/empty_strided.h>

namespace ham::trainer {

at::Tensor NewImages(int64_t rows, const ImageShape& shape, at::ScalarType type) {
  return at::empty_strided({rows, shape.channels, shape.height, shape.width},
                           {shape.size(), 1, shape.width * shape.channels, shape.channels}, type);
}

}  // namespace ham::trainer
