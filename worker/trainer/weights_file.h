// Weights of a model in a safetensors file, as PyTorch programs exchange them. Stateless; safe from any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/models/model.h"
#include "worker/trainer/safetensors.h"

namespace ham::trainer {

// Writes the weights of the checkpoint in `directory`, or their average (EMA or SWA), so that PyTorch's reference model
// loads them strictly: the class bias is folded into the output layer's, and each BatchNorm gets num_batches_tracked,
// the number of updates of the weights. What the network subtracts from pixels and divides them by first, if it does,
// stands in the metadata as JSON lists: "mean" and "standard_deviation". Replaces `file`. FailedPrecondition if there
// is no average; else LoadCheckpoint's errors.
absl::Status ExportWeights(const std::string& directory, bool average, const std::string& file);

// Fills `weights`, a set of `model`, from such a file or from one that PyTorch's users wrote: floating-point numbers of
// any size, perhaps with "module." before all names (DataParallel), which `*note` then says in a sentence.
// num_batches_tracked is read over. The class bias becomes 0. InvalidArgument for a tensor that is missing, too many or
// of another shape, and where the metadata tells of another normalization than the model has.
absl::Status ImportWeights(const std::string& file, const Model& model, ParameterSet* weights, std::string* note);

struct LoadedModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<ParameterSet> weights;  // float32
  std::string note;                       // as ImportWeights's
};
// The model of that name, and its weights from `file`: one as above, or of a checkpoint its model.safetensors, or its
// state.safetensors, as which the average in it is read (FailedPrecondition without one). The file's tensors and
// metadata also tell the number of classes, the normalization and whether a WideResNet has its extra block; the rest is
// that of `asked`. Errors as of MakeModel and ImportWeights.
absl::StatusOr<LoadedModel> LoadModel(const std::string& name, const std::string& file, const ModelOptions& asked);

// Writes what LoadModel's network says of "images" [N, C, H, W] in the safetensors file `images` to `out`, replacing
// it: "logits" [N, K], float32.
absl::Status WriteLogits(const std::string& name, const std::string& file, const std::string& images,
                         const std::string& out);

}  // namespace ham::trainer
