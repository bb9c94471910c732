// What every evaluation begins with, be it a program's own or a rank of a job: the network, the images, the record of
// what is asked of them. One thread; LibTorch's exceptions pass through.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/evaluation/evaluation_record.h"
#include "worker/trainer/accelerator.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/evaluation/block_evaluator.h"
#include "worker/trainer/models/model.h"

namespace ham::trainer {

// Names are as records have them, and known.
struct EvaluationSetup {
  std::string weights;  // LoadModel()'s (weights_file.h)
  std::string model = "cnn-16-32";
  std::string activation = "relu";
  std::string data;  // data set; its test images are evaluated
  std::string data_root;
  std::string data_cache;
  int image_size = 0;
  std::string precision = "fp32";  // of the attacks; the weights in fp32 (or fp64) judge whether an image is broken
  int threads = 1;
  std::function<void()> tick = [] {};  // LoadOptions'
};

struct PreparedEvaluation {
  ImageSet images;
  std::unique_ptr<Accelerator> accelerator;  // null on a CPU
  std::unique_ptr<Model> model;
  std::unique_ptr<ParameterSet> weights;  // on the device, in the type that judges
  std::string weights_digest;             // of the weights in float32
  std::string device;                     // as records name it
};

// On the accelerator, or where that is null on the CPU. Sets the process's thread count and use of TF32; says on
// standard error what LoadModel notes. InvalidArgument and NotFound are the user's, DataLoss the files';
// FailedPrecondition where a GPU has not the precision.
absl::StatusOr<PreparedEvaluation> PrepareEvaluation(const EvaluationSetup& setup,
                                                     std::unique_ptr<Accelerator> accelerator);

// How many images the first `rows` are, 0 = all. InvalidArgument, naming `field`, where there are fewer.
absl::StatusOr<int64_t> FirstRows(const std::string& field, int64_t rows, const EvaluationSetup& setup,
                                  const ImageSet& images);

// As ModelSpec.extra_block.
bool HasExtraBlock(const Model& model);

// All but outcomes, figures, what attacks took and where the weights came from.
EvaluationRecord RecordOf(const EvaluationSetup& setup, const PreparedEvaluation& prepared,
                          const EvaluationInputs& inputs);

// InvalidArgument, naming the image, where the network's output is not finite.
absl::Status CheckFinite(const FinishedBlock& finished, const EvaluationInputs& inputs);

}  // namespace ham::trainer
