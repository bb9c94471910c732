#include "worker/trainer/train_spec.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/extra_data_name.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

// One JSON object being read. Remembers which keys were asked for, so that the others can be refused, and
// keeps the first error of the whole spec in `error`: readers go on with neutral values and check once.
class Section {
 public:
  Section(const json& value, std::string path, absl::Status* error)
      : value_(value), path_(std::move(path)), error_(error) {
    if (!value_.is_object()) Fail(path_, "is not an object");
  }

  Section Child(const char* key) { return Section(Get(key), Path(key), error_); }

  int64_t Int(const char* key, int64_t low, int64_t high) {
    int64_t number = 0;
    const json& value = Get(key);
    if (!ReadInteger(value, &number)) {
      Fail(Path(key), absl::StrCat("is ", value.dump(), "; it must be a whole number"));
    } else if (number < low || number > high) {
      Fail(Path(key), absl::StrFormat("is %d; allowed is %d to %d", number, low, high));
    } else {
      return number;
    }
    return low;
  }

  uint64_t Seed(const char* key) {
    uint64_t number = 0;
    const json& value = Get(key);
    if (!ReadInteger(value, &number)) Fail(Path(key), absl::StrCat("is ", value.dump(), "; it must be 0 to 2^64 - 1"));
    return number;
  }

  // Within (low, high] if `open_low`, [low, high) if `open_high`, else [low, high].
  double Real(const char* key, double low, double high, bool open_low, bool open_high) {
    const json& value = Get(key);
    if (!value.is_number()) {
      Fail(Path(key), absl::StrCat("is ", value.dump(), "; it must be a number"));
      return high;
    }
    const double number = value.get<double>();
    const bool inside = std::isfinite(number) && (open_low ? number > low : number >= low) &&
                        (open_high ? number < high : number <= high);
    if (!inside) {
      Fail(Path(key), absl::StrFormat("is %g; allowed is %c%g, %g%c", number, open_low ? '(' : '[', low, high,
                                      open_high ? ')' : ']'));
    }
    return number;
  }

  bool Bool(const char* key) {
    const json& value = Get(key);
    if (!value.is_boolean()) Fail(Path(key), absl::StrCat("is ", value.dump(), "; it must be true or false"));
    return value.is_boolean() && value.get<bool>();
  }

  // May be empty.
  std::string Text(const char* key) {
    const json& value = Get(key);
    if (value.is_string()) return value.get<std::string>();
    Fail(Path(key), absl::StrCat("is ", value.dump(), "; it must be a text"));
    return "";
  }

  std::string String(const char* key) {
    std::string text = Text(key);
    if (text.empty()) Fail(Path(key), "is empty; it must be a text that is not");
    return text;
  }

  template <typename E>
  E OneOf(const char* key, const std::vector<std::pair<const char*, E>>& allowed) {
    const std::string text = String(key);
    std::string names;
    for (const auto& [name, value] : allowed) {
      if (text == name) return value;
      absl::StrAppend(&names, names.empty() ? "" : ", ", name);
    }
    Fail(Path(key), absl::StrCat("is \"", text, "\"; allowed is one of: ", names));
    return allowed.front().second;
  }

  const json& List(const char* key) {
    static const json empty = json::array();
    const json& value = Get(key);
    if (value.is_array()) return value;
    Fail(Path(key), "is not a list");
    return empty;
  }

  // Call last: what is still unread is unknown.
  void RefuseOthers() {
    if (!value_.is_object()) return;
    for (const auto& [key, unused] : value_.items()) {
      if (!asked_.contains(key))
        Fail(Path(key), "is not known to this trainer; agent and trainer must be of one build");
    }
  }

  std::string Path(const std::string& key) const { return path_.empty() ? key : absl::StrCat(path_, ".", key); }
  absl::Status* error() { return error_; }
  void Fail(const std::string& path, const std::string& what) {
    if (error_->ok()) *error_ = absl::InvalidArgumentError(absl::StrCat(path.empty() ? "the spec" : path, " ", what));
  }

 private:
  // 64-bit integers are strings in protobuf JSON.
  template <typename T>
  static bool ReadInteger(const json& value, T* out) {
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), *out);
      return code == std::errc() && end == text.data() + text.size();
    }
    if (value.is_number_unsigned()) {
      const uint64_t number = value.get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<T>::max())) return false;
      *out = static_cast<T>(number);
      return true;
    }
    if (!value.is_number_integer() || std::is_unsigned_v<T>) return false;
    *out = static_cast<T>(value.get<int64_t>());
    return true;
  }

  const json& Get(const std::string& key) {
    static const json null;
    asked_.insert(key);
    if (!value_.is_object()) return null;
    const auto found = value_.find(key);
    if (found != value_.end()) return *found;
    Fail(Path(key), "is missing");
    return null;
  }

  const json& value_;
  const std::string path_;
  absl::Status* error_;
  std::set<std::string> asked_;
};

constexpr std::pair<const char*, AttackLoss> kAttackLosses[] = {
    {"cross_entropy", AttackLoss::kCrossEntropy}, {"margin", AttackLoss::kMargin}, {"dlr", AttackLoss::kDlr}};

constexpr std::pair<const char*, AttackName> kAttackNames[] = {{"pgd", AttackName::kPgd},
                                                               {"apgd", AttackName::kApgd},
                                                               {"apgd-t", AttackName::kApgdTargeted},
                                                               {"fab-t", AttackName::kFabTargeted},
                                                               {"square", AttackName::kSquare}};

AttackLoss ReadAttackLoss(Section& attack) {
  return attack.OneOf<AttackLoss>("loss", {std::begin(kAttackLosses), std::end(kAttackLosses)});
}

// Every value has a name.
template <typename E, size_t N>
const char* NameIn(const std::pair<const char*, E> (&names)[N], E wanted) {
  const auto found =
      std::find_if(std::begin(names), std::end(names), [&](const auto& n) { return n.second == wanted; });
  return found->first;
}

constexpr std::pair<const char*, Norm> kNorms[] = {{"linf", Norm::kLinf}, {"l2", Norm::kL2}};

Norm ReadNorm(Section& attack) { return attack.OneOf<Norm>("norm", {std::begin(kNorms), std::end(kNorms)}); }

// An epsilon or a step size.
double ReadDistance(Section& attack, const char* key, Norm norm) {
  return attack.Real(key, 0, norm == Norm::kL2 ? 100 : 1, true, false);
}

AugmentationOptions ReadAugmentation(Section augmentation) {
  AugmentationOptions out;
  out.crop_padding = augmentation.Int("crop_padding", 0, 16);
  out.padding = augmentation.OneOf<Padding>("padding", {{"zero", Padding::kZero}, {"reflect", Padding::kReflect}});
  out.flip = augmentation.Bool("flip");
  out.cutout = augmentation.Int("cutout", 0, 256);
  out.cutmix = augmentation.Real("cutmix", 0, 1, false, false);
  augmentation.RefuseOthers();
  return out;
}

void ReadExtra(Section& data, DataOptions* out) {
  out->extra = data.Text("extra");
  if (!out->extra.empty() && !IsExtraDataName(out->extra)) {
    data.Fail(data.Path("extra"), absl::StrCat("is \"", out->extra, "\"; allowed is \"\" or ", kExtraDataNameRule));
  }
  out->extra_share = data.Real("extra_share", 0, 1, !out->extra.empty(), true);
  if (out->extra.empty() && out->extra_share > 0) {
    data.Fail(data.Path("extra_share"), absl::StrCat("is ", out->extra_share, " without extra data; it must be 0"));
  }
}

DataOptions ReadData(Section data) {
  DataOptions out;
  out.name = data.String("name");
  out.train_rows = data.Int("train_rows", 0, kMaxInt);
  out.test_rows = data.Int("test_rows", 0, kMaxInt);
  out.validation_share = data.Real("validation_share", 0, 0.5, false, false);
  out.image_size = data.Int("image_size", 0, 160);
  out.augmentation = ReadAugmentation(data.Child("augmentation"));
  ReadExtra(data, &out);
  data.RefuseOthers();
  return out;
}

ModelChoice ReadModel(Section model) {
  ModelChoice out;
  out.name = model.String("name");
  out.activation = model.OneOf<Activation>("activation", {{"relu", Activation::kRelu}, {"silu", Activation::kSilu}});
  out.extra_block = model.Bool("extra_block");
  out.normalize = model.OneOf<bool>("normalization", {{"none", false}, {"data_set", true}});
  model.RefuseOthers();
  return out;
}

AttackOptions ReadAttack(Section attack) {
  AttackOptions out;
  out.norm = ReadNorm(attack);
  out.epsilon = ReadDistance(attack, "epsilon", out.norm);
  out.step_size = ReadDistance(attack, "step_size", out.norm);
  out.steps = attack.Int("steps", 1, 1000);
  out.random_start = attack.Bool("random_start");
  out.loss = ReadAttackLoss(attack);
  out.start_distribution = attack.OneOf<StartDistribution>(
      "start_distribution", {{"uniform", StartDistribution::kUniform}, {"normal", StartDistribution::kNormal}});
  out.weights = attack.OneOf<AttackWeights>(
      "weights", {{"current", AttackWeights::kCurrent}, {"average", AttackWeights::kAverage}});
  out.batch_norm = attack.OneOf<AttackBatchNorm>(
      "batch_norm", {{"evaluation", AttackBatchNorm::kEvaluation}, {"training", AttackBatchNorm::kTraining}});
  int64_t low = 1;
  for (const json& item : attack.List("stages")) {
    Section stage(item, absl::StrCat(attack.Path("stages"), "[", out.stages.size(), "]"), attack.error());
    AttackStage& entry = out.stages.emplace_back();
    entry.start_epoch = stage.Int("start_epoch", low, kMaxInt);
    low = int64_t{entry.start_epoch} + 1;
    entry.epsilon = ReadDistance(stage, "epsilon", out.norm);
    entry.step_size = ReadDistance(stage, "step_size", out.norm);
    entry.steps = stage.Int("steps", 1, 1000);
    stage.RefuseOthers();
  }
  attack.RefuseOthers();
  return out;
}

// The smallest number of attack steps in an epoch with mining; attack.steps if there is none.
int SmallestMiningSteps(const AttackOptions& attack, int mining_start_epoch, int epochs) {
  int smallest = attack.steps;
  if (mining_start_epoch > epochs) return smallest;
  for (const AttackStage& stage : attack.stages) {
    if (stage.start_epoch > epochs) break;
    smallest = stage.start_epoch <= mining_start_epoch ? stage.steps : std::min(smallest, stage.steps);
  }
  return smallest;
}

MethodOptions ReadMethod(Section method, const AttackOptions& attack, int epochs, int64_t batch_size) {
  MethodOptions out;
  out.name = method.OneOf<Method>("name", {{"pgd-at", Method::kPgdAt}, {"ham", Method::kHam}});
  out.mining_start_epoch = method.Int("mining_start_epoch", 1, kMaxInt);
  out.mining_step = method.Int("mining_step", 1, SmallestMiningSteps(attack, out.mining_start_epoch, epochs));
  out.retained_easy_share = method.Real("retained_easy_share", 0, 1, false, false);
  out.minimum_hard = method.Int("minimum_hard", 1, batch_size);
  out.retained_easy = method.OneOf<RetainedEasy>(
      "retained_easy", {{"random", RetainedEasy::kRandom}, {"high_confidence", RetainedEasy::kHighConfidence}});
  out.weight_mode = method.OneOf<WeightMode>("weight_mode", {{"none", WeightMode::kEqual},
                                                             {"first_cross", WeightMode::kFirstCross},
                                                             {"delta_max", WeightMode::kDeltaMax},
                                                             {"kappa", WeightMode::kKappa}});
  out.drop_share = method.Real("drop_share", 0, 1, false, true);
  out.balance_ranks = method.Bool("balance_ranks");
  method.RefuseOthers();
  return out;
}

void ReadMilestones(Section& optimizer, OptimizerOptions* out) {
  int previous = 0;
  for (const json& milestone : optimizer.List("milestones")) {
    if (!milestone.is_number_integer() || milestone.get<int64_t>() <= previous || milestone.get<int64_t>() > kMaxInt) {
      optimizer.Fail(optimizer.Path("milestones"),
                     "holds " + milestone.dump() + "; epochs from 1, ascending, are allowed");
      return;
    }
    out->milestones.push_back(previous = milestone.get<int>());
  }
  for (const json& factor : optimizer.List("factors")) {
    if (!factor.is_number() || !(factor.get<double>() > 0 && factor.get<double>() <= 100)) {
      optimizer.Fail(optimizer.Path("factors"), "holds " + factor.dump() + "; numbers in (0, 100] are allowed");
      return;
    }
    out->factors.push_back(factor.get<double>());
  }
  if (!out->factors.empty() && out->factors.size() != out->milestones.size()) {
    optimizer.Fail(optimizer.Path("factors"), absl::StrFormat("has %d entries for %d milestones; one a milestone is "
                                                              "needed",
                                                              out->factors.size(), out->milestones.size()));
  }
}

OptimizerOptions ReadOptimizer(Section optimizer) {
  OptimizerOptions out;
  out.name = optimizer.OneOf<OptimizerKind>(
      "name", {{"sgd", OptimizerKind::kSgd}, {"adam", OptimizerKind::kAdam}, {"adamw", OptimizerKind::kAdamW}});
  out.learning_rate = optimizer.Real("learning_rate", 0, 10, true, false);
  out.momentum = optimizer.Real("momentum", 0, 1, false, true);
  out.weight_decay = optimizer.Real("weight_decay", 0, 1, false, false);
  out.schedule = optimizer.OneOf<Schedule>("schedule", {{"constant", Schedule::kConstant},
                                                        {"step", Schedule::kStep},
                                                        {"cosine", Schedule::kCosine},
                                                        {"one-cycle", Schedule::kOneCycle}});
  ReadMilestones(optimizer, &out);
  out.gamma = optimizer.Real("gamma", 0, 1, true, false);
  out.nesterov = optimizer.Bool("nesterov");
  out.decay_norm_and_bias = optimizer.Bool("decay_norm_and_bias");
  out.warmup_share = optimizer.Real("warmup_share", 0, 1, true, true);
  out.schedule_by = optimizer.OneOf<ScheduleBy>("schedule_by",
                                                {{"iteration", ScheduleBy::kIteration}, {"epoch", ScheduleBy::kEpoch}});
  out.gradient_clip_norm = optimizer.Real("gradient_clip_norm", 0, 1e6, false, false);
  optimizer.RefuseOthers();
  return out;
}

ClassBiasOptions ReadClassBias(Section bias) {
  ClassBiasOptions out;
  out.running_rate = bias.Real("running_rate", 0, 1, false, false);
  out.running_decay = bias.Real("running_decay", 0, 1, false, true);
  out.fit_rounds = bias.Int("fit_rounds", 0, 100);
  out.fit_step = bias.Real("fit_step", 0, 10, true, false);
  bias.RefuseOthers();
  return out;
}

CheckpointOptions ReadCheckpoint(Section checkpoint) {
  CheckpointOptions out;
  out.every_iterations = checkpoint.Int("every_iterations", 0, kMaxInt);
  out.keep_every_epochs = checkpoint.Int("keep_every_epochs", 0, kMaxInt);
  checkpoint.RefuseOthers();
  return out;
}

EvaluationAttack ReadEvaluationAttack(Section attack, Norm norm) {
  EvaluationAttack out;
  out.name = attack.OneOf<AttackName>("name", {std::begin(kAttackNames), std::end(kAttackNames)});
  out.loss = ReadAttackLoss(attack);
  out.steps = attack.Int("steps", 1, 10000);
  const bool pgd = out.name == AttackName::kPgd;
  out.step_size = pgd ? ReadDistance(attack, "step_size", norm) : attack.Real("step_size", 0, 0, false, false);
  const bool targeted = out.name == AttackName::kApgdTargeted || out.name == AttackName::kFabTargeted;
  out.targets = attack.Int("targets", targeted ? 1 : 0, targeted ? 1000 : 0);
  out.restarts = attack.Int("restarts", 1, 100);
  out.random_start = attack.Bool("random_start");
  out.judged_at = attack.OneOf<JudgedAt>("judged_at", {{"last", JudgedAt::kLast}, {"any", JudgedAt::kAny}});
  attack.RefuseOthers();
  return out;
}

AttackSuite ReadSuite(Section suite) {
  AttackSuite out;
  out.name = suite.String("name");
  out.norm = ReadNorm(suite);
  out.epsilon = ReadDistance(suite, "epsilon", out.norm);
  for (const json& attack : suite.List("attacks")) {
    const std::string path = absl::StrCat(suite.Path("attacks"), "[", out.attacks.size(), "]");
    out.attacks.push_back(ReadEvaluationAttack(Section(attack, path, suite.error()), out.norm));
  }
  if (out.attacks.empty()) suite.Fail(suite.Path("attacks"), "is empty; at least one attack is needed");
  suite.RefuseOthers();
  return out;
}

std::vector<AttackSuite> ReadSuites(Section& evaluation, const char* key, std::set<std::string>* names) {
  std::vector<AttackSuite> out;
  for (const json& item : evaluation.List(key)) {
    const std::string path = absl::StrCat(evaluation.Path(key), "[", out.size(), "]");
    out.push_back(ReadSuite(Section(item, path, evaluation.error())));
    const std::string& name = out.back().name;
    if (!names->insert(name).second) {
      evaluation.Fail(path + ".name", "is \"" + name + "\", which another suite has; give each its own name");
    }
  }
  return out;
}

EvaluationOptions ReadEvaluation(Section evaluation) {
  EvaluationOptions out;
  std::set<std::string> names;
  out.every_epochs = evaluation.Int("every_epochs", 0, kMaxInt);
  out.suites = ReadSuites(evaluation, "suites", &names);
  out.final_suites = ReadSuites(evaluation, "final_suites", &names);
  out.reestimate_batch_norm = evaluation.Bool("reestimate_batch_norm");
  evaluation.RefuseOthers();
  return out;
}

struct Resources {
  int world_size = 1;
  Device device = Device::kCpu;
  int threads_per_rank = 1;
};

// Of `job`, "train" or "evaluate".
Resources ReadResources(Section& job) {
  Section resources = job.Child("resources");
  Resources out;
  out.world_size = resources.Int("world_size", 1, 4096);
  out.device = resources.OneOf<Device>("device", {{"cpu", Device::kCpu}, {"cuda", Device::kCuda}});
  out.threads_per_rank = resources.Int("threads_per_rank", 1, 1024);
  resources.RefuseOthers();
  return out;
}

Precision ReadPrecision(Section& job, Device device) {
  const auto out = job.OneOf<Precision>("precision", {std::begin(kPrecisions), std::end(kPrecisions)});
  if (out == Precision::kTf32 && device == Device::kCpu) {
    job.Fail(job.Path("precision"),
             absl::StrFormat("is \"tf32\", which only GPUs have; %s must be cuda", job.Path("resources.device")));
  }
  return out;
}

// The coordinator's.
void ReadRetry(Section retry) {
  retry.Int("max_attempts", 1, 1000);
  retry.RefuseOthers();
}

void ReadEvaluatedModel(Section model, EvaluateSpec* out) {
  out->model = model.String("name");
  out->activation = model.OneOf<std::string>("activation", {{"relu", "relu"}, {"silu", "silu"}});
  out->extra_block = model.Bool("extra_block");
  model.OneOf<bool>("normalization", {{"none", false}});  // that of the weights
  model.RefuseOthers();
}

void ReadTestData(Section data, EvaluateSpec* out) {
  out->data = data.String("name");
  out->rows = data.Int("rows", 0, 200'000);
  out->image_size = data.Int("image_size", 0, 160);
  data.RefuseOthers();
}

}  // namespace

absl::StatusOr<TrainSpec> ParseTrainSpec(const json& spec) {
  absl::Status error;
  Section job(spec, "", &error);
  Section train = job.Child("train");
  job.RefuseOthers();
  TrainSpec out;
  out.data = ReadData(train.Child("data"));
  out.model = ReadModel(train.Child("model"));
  out.epochs = train.Int("epochs", 1, 100000);
  out.batch_size = train.Int("batch_size", 1, 65536);
  out.ema_decay = train.Real("ema_decay", 0, 1, false, true);
  out.seed = train.Seed("seed");
  out.attack = ReadAttack(train.Child("attack"));
  out.method = ReadMethod(train.Child("method"), out.attack, out.epochs, out.batch_size);
  out.optimizer = ReadOptimizer(train.Child("optimizer"));
  out.evaluation = ReadEvaluation(train.Child("evaluation"));
  const Resources resources = ReadResources(train);
  out.world_size = resources.world_size;
  out.device = resources.device;
  out.threads_per_rank = resources.threads_per_rank;
  if (out.world_size > out.batch_size) {
    train.Fail(
        train.Path("resources.world_size"),
        absl::StrFormat("is %d; allowed is at most train.batch_size, which is %d", out.world_size, out.batch_size));
  }
  out.label_smoothing = train.Real("label_smoothing", 0, 1, false, true);
  out.class_bias = ReadClassBias(train.Child("class_bias"));
  out.precision = ReadPrecision(train, out.device);
  out.batch_norm = train.OneOf<BatchNormMode>(
      "batch_norm", {{"synchronized", BatchNormMode::kSynchronized}, {"local", BatchNormMode::kLocal}});
  out.swa_start_epoch = train.Int("swa_start_epoch", 0, out.epochs);
  out.checkpoint = ReadCheckpoint(train.Child("checkpoint"));
  out.accumulation_steps = train.Int("accumulation_steps", 1, std::max<int64_t>(1, out.batch_size / out.world_size));
  ReadRetry(train.Child("retry"));
  train.RefuseOthers();
  if (!error.ok()) return error;
  return out;
}

absl::StatusOr<EvaluateSpec> ParseEvaluateSpec(const json& spec) {
  absl::Status error;
  Section job(spec, "", &error);
  Section evaluate = job.Child("evaluate");
  job.RefuseOthers();
  EvaluateSpec out;
  ReadEvaluatedModel(evaluate.Child("model"), &out);
  evaluate.String("weights");  // the agent brings them
  evaluate.Text("job");        // the coordinator's
  ReadTestData(evaluate.Child("data"), &out);
  out.suite = ReadSuite(evaluate.Child("suite"));
  out.device = ReadResources(evaluate).device;
  const Precision precision = ReadPrecision(evaluate, out.device);
  out.precision = NameIn(kPrecisions, precision);
  out.seed = evaluate.Seed("seed");
  ReadRetry(evaluate.Child("retry"));
  evaluate.RefuseOthers();
  if (!error.ok()) return error;
  return out;
}

AttackStage StageAt(const AttackOptions& attack, int epoch) {
  AttackStage out{1, attack.epsilon, attack.step_size, attack.steps};
  for (const AttackStage& stage : attack.stages) {
    if (stage.start_epoch <= epoch) out = stage;
  }
  return out;
}

absl::StatusOr<EvaluationAttack> ParseEvaluationAttack(const json& attack, const std::string& path, Norm norm) {
  absl::Status error;
  const EvaluationAttack out = ReadEvaluationAttack(Section(attack, path, &error), norm);
  if (!error.ok()) return error;
  return out;
}

const char* AttackLossName(AttackLoss loss) { return NameIn(kAttackLosses, loss); }
const char* AttackNameOf(const EvaluationAttack& attack) { return NameIn(kAttackNames, attack.name); }

const char* NormName(Norm norm) { return NameIn(kNorms, norm); }

}  // namespace ham::trainer
