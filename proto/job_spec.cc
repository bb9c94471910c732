#include "proto/job_spec.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/unknown_field_set.h"
#include "google/protobuf/util/json_util.h"
#include "proto/evaluation/evaluation_record.h"
#include "proto/extra_data_name.h"
#include "proto/known_attacks.h"
#include "proto/sha256.h"
#include "proto/utf8.h"

namespace ham {
namespace {

using ham::v1::AttackSuite;
using ham::v1::EvaluateSpec;
using ham::v1::EvaluationAttack;
using ham::v1::TrainSpec;

constexpr int kMaxRows = std::numeric_limits<int>::max();

double DefaultEpsilon(const std::string& norm) { return norm == "l2" ? 0.5 : 8.0 / 255.0; }

// What is known of data sets here. Others may exist: workers advertise what they have.
struct DataSetDefaults {
  const char* name;
  int crop_padding;
  bool flip;
  int image_size;  // the default one; 0: the files have one size
};
constexpr DataSetDefaults kDataSets[] = {
    {"cifar-10", 4, true, 0}, {"cifar-100", 4, true, 0}, {"svhn", 4, true, 0}, {"imagenette", 4, true, 32}};

DataSetDefaults DefaultsOf(const std::string& data_set) {
  for (const DataSetDefaults& known : kDataSets) {
    if (data_set == known.name) return known;
  }
  return {"", 0, false, 0};
}

// Collects violations; `at` is the path of the message being checked.
class Checker {
 public:
  explicit Checker(std::vector<FieldViolation>* out) : out_(out) {}

  void Fail(const std::string& field, const std::string& description) { out_->push_back({field, description}); }

  void Int(const std::string& field, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return;
    Fail(field, absl::StrFormat("%s is %d; allowed is %d to %d", field, value, low, high));
  }

  // Interval bounds are closed unless `open_low` / `open_high`.
  void Real(const std::string& field, double value, double low, double high, bool open_low, bool open_high) {
    const bool low_ok = open_low ? value > low : value >= low;
    const bool high_ok = open_high ? value < high : value <= high;
    if (std::isfinite(value) && low_ok && high_ok) return;
    Fail(field, absl::StrFormat("%s is %g; allowed is %s%g, %g%s", field, value, open_low ? "(" : "[", low, high,
                                open_high ? ")" : "]"));
  }

  void OneOf(const std::string& field, const std::string& value, const std::vector<std::string>& allowed) {
    for (const std::string& a : allowed) {
      if (a == value) return;
    }
    Fail(field,
         absl::StrFormat("%s is \"%s\"; allowed is one of: %s", field, Shown(value), absl::StrJoin(allowed, ", ")));
  }

  // Of a network's arithmetic, where `section` is "train" or "evaluate".
  void Precision(const std::string& section, const std::string& value) {
    OneOf(section + ".precision", value, {"fp32", "tf32", "fp64", "bf16"});
  }

  void AttackLoss(const std::string& field, const std::string& value) {
    OneOf(field, value, {"cross_entropy", "margin", "dlr"});
  }

  // Of an epsilon or a step size.
  void Distance(const std::string& field, double value, const std::string& norm) {
    Real(field, value, 0, norm == "l2" ? 100 : 1, true, false);
  }

 private:
  std::vector<FieldViolation>* out_;
};

bool IsPlainName(const std::string& text, size_t longest) {
  if (text.empty() || text.size() > longest) return false;
  for (char c : text) {
    const bool ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || (c >= 'A' && c <= 'Z');
    if (!ok) return false;
  }
  return true;
}

bool IsJobName(const std::string& text) {
  constexpr char kParent[] = "projects/default/jobs/";
  return text.rfind(kParent, 0) == 0 && IsPlainName(text.substr(sizeof(kParent) - 1), 63);
}

// Data: DataSpec or TestDataSpec, at `path`.
template <typename Data>
void CheckDataSet(const std::string& path, const Data& data, Checker* check) {
  const std::string field = path + ".name";
  if (!data.has_name()) {
    check->Fail(field, field + " is missing; give the name of a data set that workers have, for example fashion-mnist");
  } else if (!IsPlainName(data.name(), 63)) {
    check->Fail(field, absl::StrFormat("%s is \"%s\"; allowed are 1 to 63 letters, digits and '-' (a name, not a path)",
                                       field, Shown(data.name())));
  }
}

template <typename Data>
void ResolveImageSize(const std::string& path, Data* data, Checker* check) {
  const std::string field = path + ".image_size";
  const int size = DefaultsOf(data->name()).image_size;
  if (!data->has_image_size()) data->set_image_size(size);
  if (size == 0 && data->image_size() != 0) {
    check->Fail(field, absl::StrFormat("%s is %d; the images of \"%s\" have one size, leave it out", field,
                                       data->image_size(), Shown(data->name())));
  }
  if (size != 0 && data->image_size() != 32 && data->image_size() != 160) {
    check->Fail(field, absl::StrFormat("%s is %d; allowed is 32 or 160", field, data->image_size()));
  }
}

void ResolveData(TrainSpec* train, Checker* check) {
  auto* data = train->mutable_data();
  CheckDataSet("train.data", *data, check);
  if (!data->has_train_rows()) data->set_train_rows(0);
  if (!data->has_test_rows()) data->set_test_rows(2000);
  check->Int("train.data.train_rows", data->train_rows(), 0, kMaxRows);
  check->Int("train.data.test_rows", data->test_rows(), 0, kMaxRows);
  if (!data->has_validation_share()) data->set_validation_share(0.02);
  check->Real("train.data.validation_share", data->validation_share(), 0, 0.5, false, false);
  ResolveImageSize("train.data", data, check);
  const DataSetDefaults defaults = DefaultsOf(data->name());
  auto* augmentation = data->mutable_augmentation();
  if (!augmentation->has_crop_padding()) augmentation->set_crop_padding(defaults.crop_padding);
  if (!augmentation->has_padding()) augmentation->set_padding("zero");
  if (!augmentation->has_flip()) augmentation->set_flip(defaults.flip);
  if (!augmentation->has_cutout()) augmentation->set_cutout(0);
  if (!augmentation->has_cutmix()) augmentation->set_cutmix(0);
  check->Int("train.data.augmentation.crop_padding", augmentation->crop_padding(), 0, 16);
  check->OneOf("train.data.augmentation.padding", augmentation->padding(), {"zero", "reflect"});
  check->Int("train.data.augmentation.cutout", augmentation->cutout(), 0, 256);
  check->Real("train.data.augmentation.cutmix", augmentation->cutmix(), 0, 1, false, false);
}

// After batch_size.
void ResolveExtra(TrainSpec* train, Checker* check) {
  auto* data = train->mutable_data();
  if (!data->has_extra()) data->set_extra("");
  const bool present = !data->extra().empty();
  if (!data->has_extra_share()) data->set_extra_share(present ? 0.5 : 0);
  const double share = data->extra_share();
  if (!present) {
    if (share == 0) return;
    check->Fail("train.data.extra_share",
                absl::StrFormat("train.data.extra_share is %g, but there is no extra data; remove it or name some in "
                                "train.data.extra",
                                share));
    return;
  }
  if (!IsExtraDataName(data->extra())) {
    check->Fail("train.data.extra", absl::StrFormat("train.data.extra is \"%s\"; allowed are %s (a name, not a path)",
                                                    Shown(data->extra()), kExtraDataNameRule));
  }
  check->Real("train.data.extra_share", share, 0, 1, true, true);
  const double rows = std::round(share * train->batch_size());
  if (share > 0 && share < 1 && (rows < 1 || rows >= train->batch_size())) {
    check->Fail("train.data.extra_share",
                absl::StrFormat("train.data.extra_share is %g: %g of the %d rows of a batch; allowed is a share that "
                                "leaves at least one row of each kind",
                                share, rows, train->batch_size()));
  }
}

// All but its normalization.
void ResolveModel(const std::string& path, ham::v1::ModelSpec* model, Checker* check) {
  if (!model->has_name()) model->set_name("cnn-16-32");
  if (!model->has_activation()) model->set_activation("relu");
  if (!model->has_extra_block()) model->set_extra_block(false);
  check->OneOf(
      path + ".name", model->name(),
      {"cnn-16-32", "cnn-32-64", "cnn-wong-kolter", "preact-resnet-18", "resnet-18", "wrn-28-10", "wrn-34-10"});
  check->OneOf(path + ".activation", model->activation(), {"relu", "silu"});
  if (model->extra_block() && model->name().rfind("wrn-", 0) != 0) {
    check->Fail(path + ".extra_block",
                absl::StrFormat("%s.extra_block is true, but model \"%s\" has no such block; remove it or set %s.name "
                                "to wrn-28-10 or wrn-34-10",
                                path, Shown(model->name()), path));
  }
}

void ResolveTrainedModel(TrainSpec* train, Checker* check) {
  auto* model = train->mutable_model();
  ResolveModel("train.model", model, check);
  if (!model->has_normalization()) model->set_normalization("none");
  check->OneOf("train.model.normalization", model->normalization(), {"none", "data_set"});
}

void ResolveStages(TrainSpec* train, Checker* check) {
  auto* attack = train->mutable_attack();
  if (attack->stages_size() > 100) {
    check->Int("train.attack.stages (count)", attack->stages_size(), 0, 100);
    return;
  }
  int64_t low = 1;
  for (int i = 0; i < attack->stages_size(); ++i) {
    auto* stage = attack->mutable_stages(i);
    const std::string at = absl::StrCat("train.attack.stages[", i, "]");
    if (!stage->has_epsilon()) stage->set_epsilon(attack->epsilon());
    if (!stage->has_step_size()) stage->set_step_size(attack->step_size());
    if (!stage->has_steps()) stage->set_steps(attack->steps());
    if (!stage->has_start_epoch()) {
      check->Fail(at + ".start_epoch", at + ".start_epoch is missing; give the 1-based epoch from which it holds");
    } else {
      check->Int(at + ".start_epoch", stage->start_epoch(), low, kMaxRows);
      low = int64_t{stage->start_epoch()} + 1;
    }
    check->Distance(at + ".epsilon", stage->epsilon(), attack->norm());
    check->Distance(at + ".step_size", stage->step_size(), attack->norm());
    check->Int(at + ".steps", stage->steps(), 1, 1000);
  }
}

// After ema_decay.
void ResolveAttack(TrainSpec* train, Checker* check) {
  auto* attack = train->mutable_attack();
  if (!attack->has_norm()) attack->set_norm("linf");
  check->OneOf("train.attack.norm", attack->norm(), {"linf", "l2"});
  if (!attack->has_epsilon()) attack->set_epsilon(DefaultEpsilon(attack->norm()));
  if (!attack->has_step_size()) attack->set_step_size(attack->epsilon() / 4);
  if (!attack->has_steps()) attack->set_steps(10);
  if (!attack->has_random_start()) attack->set_random_start(true);
  check->Distance("train.attack.epsilon", attack->epsilon(), attack->norm());
  check->Distance("train.attack.step_size", attack->step_size(), attack->norm());
  check->Int("train.attack.steps", attack->steps(), 1, 1000);
  if (!attack->has_loss()) attack->set_loss("cross_entropy");
  if (!attack->has_start_distribution()) attack->set_start_distribution("uniform");
  if (!attack->has_weights()) attack->set_weights("current");
  if (!attack->has_batch_norm()) attack->set_batch_norm("evaluation");
  check->AttackLoss("train.attack.loss", attack->loss());
  check->OneOf("train.attack.start_distribution", attack->start_distribution(), {"uniform", "normal"});
  if (attack->start_distribution() == "normal" && !attack->random_start()) {
    check->Fail("train.attack.start_distribution",
                "train.attack.start_distribution is \"normal\", but train.attack.random_start is false; remove one");
  }
  check->OneOf("train.attack.weights", attack->weights(), {"current", "average"});
  if (attack->weights() == "average" && train->ema_decay() == 0) {
    check->Fail("train.attack.weights",
                "train.attack.weights is \"average\", but there is no running average; set train.ema_decay above 0");
  }
  check->OneOf("train.attack.batch_norm", attack->batch_norm(), {"evaluation", "training"});
  ResolveStages(train, check);
}

// The smallest number of attack steps in an epoch with mining; attack.steps if there is none.
int SmallestMiningSteps(const TrainSpec& train) {
  const int start = train.method().mining_start_epoch();
  int smallest = train.attack().steps();
  if (start > train.epochs()) return smallest;
  for (const auto& stage : train.attack().stages()) {
    if (stage.start_epoch() > train.epochs()) break;
    smallest = stage.start_epoch() <= start ? stage.steps() : std::min(smallest, stage.steps());
  }
  return smallest;
}

// After attack, epochs and batch_size: its ranges depend on them.
void ResolveMethod(TrainSpec* train, Checker* check) {
  auto* method = train->mutable_method();
  if (!method->has_name()) method->set_name("ham");
  check->OneOf("train.method.name", method->name(), {"pgd-at", "ham"});
  if (method->name() == "pgd-at") {
    const auto refuse = [&](bool present, const char* key) {
      if (present) {
        const std::string field = absl::StrCat("train.method.", key);
        check->Fail(field,
                    absl::StrFormat("%s is set, but only method ham reads it; remove it or set train.method.name "
                                    "to ham",
                                    field));
      }
    };
    // The resolved form of pgd-at carries these neutral values, so that a resolved spec resolves to itself.
    refuse(method->has_mining_step() && method->mining_step() != train->attack().steps(), "mining_step");
    refuse(method->has_mining_start_epoch() && method->mining_start_epoch() != kMaxRows, "mining_start_epoch");
    refuse(method->has_retained_easy_share() && method->retained_easy_share() != 0, "retained_easy_share");
    refuse(method->has_minimum_hard() && method->minimum_hard() != 1, "minimum_hard");
    refuse(method->has_retained_easy() && method->retained_easy() != "random", "retained_easy");
    refuse(method->has_weight_mode() && method->weight_mode() != "none", "weight_mode");
    refuse(method->has_drop_share() && method->drop_share() != 0, "drop_share");
    refuse(method->balance_ranks(), "balance_ranks");
    method->set_mining_step(train->attack().steps());
    method->set_mining_start_epoch(kMaxRows);
    method->set_retained_easy_share(0);
    method->set_minimum_hard(1);
    method->set_retained_easy("random");
    method->set_weight_mode("none");
    method->set_drop_share(0);
    method->set_balance_ranks(false);
    return;
  }
  if (!method->has_mining_start_epoch()) method->set_mining_start_epoch(1 + train->epochs() / 2);
  const int smallest_steps = SmallestMiningSteps(*train);
  if (!method->has_mining_step()) method->set_mining_step(std::min(3, smallest_steps));
  if (!method->has_retained_easy_share()) method->set_retained_easy_share(0);
  if (!method->has_minimum_hard()) method->set_minimum_hard(1);
  if (!method->has_retained_easy()) method->set_retained_easy("random");
  if (!method->has_weight_mode()) method->set_weight_mode("none");
  if (!method->has_drop_share()) method->set_drop_share(0);
  if (!method->has_balance_ranks()) method->set_balance_ranks(false);
  if (method->mining_step() < 1 || method->mining_step() > smallest_steps) {
    check->Fail("train.method.mining_step",
                absl::StrFormat("train.method.mining_step is %d; allowed is 1 to the smallest train.attack.steps while "
                                "mining is on, which is %d",
                                method->mining_step(), smallest_steps));
  }
  check->Int("train.method.mining_start_epoch", method->mining_start_epoch(), 1, kMaxRows);
  check->Real("train.method.retained_easy_share", method->retained_easy_share(), 0, 1, false, false);
  check->Int("train.method.minimum_hard", method->minimum_hard(), 1, train->batch_size());
  check->OneOf("train.method.retained_easy", method->retained_easy(), {"random", "high_confidence"});
  check->OneOf("train.method.weight_mode", method->weight_mode(), {"none", "first_cross", "delta_max", "kappa"});
  check->Real("train.method.drop_share", method->drop_share(), 0, 1, false, true);
  if (method->balance_ranks() && train->batch_norm() == "local") {
    check->Fail("train.method.balance_ranks",
                "train.method.balance_ranks is true, but with train.batch_norm \"local\" it matters which rank has a "
                "row; set batch_norm to synchronized or remove balance_ranks");
  }
}

// Milestones, and gamma or factors.
void ResolveRateSteps(TrainSpec* train, Checker* check) {
  auto* optimizer = train->mutable_optimizer();
  const int milestones = optimizer->milestones_size();
  const int factors = optimizer->factors_size();
  // With factors the resolved gamma is 1, so that a resolved spec resolves to itself.
  if (factors > 0 && optimizer->has_gamma() && optimizer->gamma() != 1) {
    check->Fail("train.optimizer.gamma",
                "train.optimizer.gamma is set, but train.optimizer.factors replaces it; remove one of them");
  }
  if (!optimizer->has_gamma()) optimizer->set_gamma(factors > 0 ? 1 : 0.1);
  check->Real("train.optimizer.gamma", optimizer->gamma(), 0, 1, true, false);
  const auto refuse_unread = [&](int count, const char* key) {
    if (count == 0 || optimizer->schedule() == "step") return;
    const std::string field = absl::StrCat("train.optimizer.", key);
    check->Fail(field, absl::StrFormat("%s is set, but schedule \"%s\" does not read it; set "
                                       "train.optimizer.schedule to step or remove it",
                                       field, Shown(optimizer->schedule())));
  };
  refuse_unread(milestones, "milestones");
  refuse_unread(factors, "factors");
  if (optimizer->schedule() == "step" && milestones == 0) {
    check->Fail("train.optimizer.milestones",
                "train.optimizer.milestones is missing; schedule step needs ascending epochs, for example [60, 90]");
  }
  if (milestones > 1000) {
    check->Int("train.optimizer.milestones (count)", milestones, 0, 1000);
    return;
  }
  for (int i = 0; i < milestones; ++i) {
    const int64_t low = i == 0 ? 1 : int64_t{optimizer->milestones(i - 1)} + 1;
    check->Int(absl::StrCat("train.optimizer.milestones[", i, "]"), optimizer->milestones(i), low, kMaxRows);
  }
  if (factors > 0 && optimizer->schedule() == "step" && factors != milestones) {
    check->Fail("train.optimizer.factors",
                absl::StrFormat("train.optimizer.factors has %d entries for %d milestones; one a milestone is needed",
                                factors, milestones));
    return;
  }
  for (int i = 0; i < factors; ++i) {
    check->Real(absl::StrCat("train.optimizer.factors[", i, "]"), optimizer->factors(i), 0, 100, true, false);
  }
}

void ResolveOptimizer(TrainSpec* train, Checker* check) {
  auto* optimizer = train->mutable_optimizer();
  if (!optimizer->has_name()) optimizer->set_name("adam");
  check->OneOf("train.optimizer.name", optimizer->name(), {"adam", "adamw", "sgd"});
  if (!optimizer->has_learning_rate()) optimizer->set_learning_rate(optimizer->name() == "sgd" ? 0.1 : 0.001);
  if (!optimizer->has_momentum()) optimizer->set_momentum(0.9);
  if (!optimizer->has_weight_decay()) optimizer->set_weight_decay(0);
  if (!optimizer->has_schedule()) optimizer->set_schedule("cosine");
  if (!optimizer->has_nesterov()) optimizer->set_nesterov(false);
  if (!optimizer->has_decay_norm_and_bias()) optimizer->set_decay_norm_and_bias(true);
  if (!optimizer->has_warmup_share()) optimizer->set_warmup_share(0.3);
  if (!optimizer->has_schedule_by()) optimizer->set_schedule_by("iteration");
  if (!optimizer->has_gradient_clip_norm()) optimizer->set_gradient_clip_norm(0);
  check->Real("train.optimizer.learning_rate", optimizer->learning_rate(), 0, 10, true, false);
  check->Real("train.optimizer.momentum", optimizer->momentum(), 0, 1, false, true);
  check->Real("train.optimizer.weight_decay", optimizer->weight_decay(), 0, 1, false, false);
  check->OneOf("train.optimizer.schedule", optimizer->schedule(), {"constant", "step", "cosine", "one-cycle"});
  ResolveRateSteps(train, check);
  if (optimizer->nesterov() && (optimizer->name() != "sgd" || optimizer->momentum() == 0)) {
    check->Fail("train.optimizer.nesterov",
                "train.optimizer.nesterov is true, but only sgd with a momentum above 0 reads it; remove it or set "
                "train.optimizer.name to sgd");
  }
  check->Real("train.optimizer.warmup_share", optimizer->warmup_share(), 0, 1, true, true);
  check->OneOf("train.optimizer.schedule_by", optimizer->schedule_by(), {"iteration", "epoch"});
  check->Real("train.optimizer.gradient_clip_norm", optimizer->gradient_clip_norm(), 0, 1e6, false, false);
}

// Epochs come first: ranges depend on them.
void ResolveTraining(TrainSpec* train, Checker* check) {
  if (!train->has_epochs()) train->set_epochs(12);
  if (!train->has_batch_size()) train->set_batch_size(128);
  if (!train->has_swa_start_epoch()) train->set_swa_start_epoch(0);
  if (!train->has_ema_decay()) train->set_ema_decay(train->swa_start_epoch() > 0 ? 0 : 0.99);
  if (!train->has_seed()) train->set_seed(0);
  if (!train->has_label_smoothing()) train->set_label_smoothing(0);
  if (!train->has_precision()) train->set_precision("fp32");
  if (!train->has_batch_norm()) train->set_batch_norm("synchronized");
  check->Int("train.epochs", train->epochs(), 1, 100000);
  check->Int("train.batch_size", train->batch_size(), 1, 65536);
  check->Real("train.ema_decay", train->ema_decay(), 0, 1, false, true);
  check->Real("train.label_smoothing", train->label_smoothing(), 0, 1, false, true);
  check->Precision("train", train->precision());
  check->OneOf("train.batch_norm", train->batch_norm(), {"synchronized", "local"});
  check->Int("train.swa_start_epoch", train->swa_start_epoch(), 0, train->epochs());
  if (train->swa_start_epoch() > 0 && train->ema_decay() > 0) {
    check->Fail(
        "train.swa_start_epoch",
        absl::StrFormat("train.swa_start_epoch is %d and train.ema_decay is %g, but there is one average of the "
                        "weights; set one of them to 0",
                        train->swa_start_epoch(), train->ema_decay()));
  }
}

// After attack and method.
void CheckMixedLabels(const TrainSpec& train, Checker* check) {
  const double cutmix = train.data().augmentation().cutmix();
  if (cutmix == 0) return;
  const auto refuse = [&](const std::string& other, const std::string& value, const char* needed) {
    check->Fail(
        "train.data.augmentation.cutmix",
        absl::StrFormat("train.data.augmentation.cutmix is %g, but %s \"%s\" knows no mixed labels; set that to "
                        "%s or remove cutmix",
                        cutmix, other, Shown(value), needed));
  };
  if (train.attack().loss() != "cross_entropy") refuse("train.attack.loss", train.attack().loss(), "cross_entropy");
  if (train.method().weight_mode() != "none") refuse("train.method.weight_mode", train.method().weight_mode(), "none");
}

void ResolveClassBias(TrainSpec* train, Checker* check) {
  auto* bias = train->mutable_class_bias();
  if (!bias->has_running_rate()) bias->set_running_rate(0);
  if (!bias->has_running_decay()) bias->set_running_decay(0.98);
  if (!bias->has_fit_rounds()) bias->set_fit_rounds(0);
  if (!bias->has_fit_step()) bias->set_fit_step(0.1);
  check->Real("train.class_bias.running_rate", bias->running_rate(), 0, 1, false, false);
  check->Real("train.class_bias.running_decay", bias->running_decay(), 0, 1, false, true);
  check->Int("train.class_bias.fit_rounds", bias->fit_rounds(), 0, 100);
  check->Real("train.class_bias.fit_step", bias->fit_step(), 0, 10, true, false);
  if (bias->fit_rounds() > 0 && train->data().validation_share() == 0) {
    check->Fail("train.class_bias.fit_rounds",
                absl::StrFormat("train.class_bias.fit_rounds is %d, but no rows are held out to fit on; set "
                                "train.data.validation_share above 0",
                                bias->fit_rounds()));
  }
}

void ResolveCheckpoint(TrainSpec* train, Checker* check) {
  auto* checkpoint = train->mutable_checkpoint();
  if (!checkpoint->has_every_iterations()) checkpoint->set_every_iterations(0);
  if (!checkpoint->has_keep_every_epochs()) checkpoint->set_keep_every_epochs(0);
  check->Int("train.checkpoint.every_iterations", checkpoint->every_iterations(), 0, kMaxRows);
  check->Int("train.checkpoint.keep_every_epochs", checkpoint->keep_every_epochs(), 0, kMaxRows);
}

void ResolveEvaluationAttack(const std::string& path, const AttackSuite& suite, EvaluationAttack* attack,
                             Checker* check) {
  if (!attack->has_name()) attack->set_name("pgd");
  std::vector<std::string> names;
  for (const KnownAttack& known_attack : KnownAttacks()) names.push_back(known_attack.name);
  check->OneOf(path + ".name", attack->name(), names);
  const KnownAttack* const known = FindAttack(attack->name());
  if (known == nullptr) return;
  const bool pgd = known->takes_steps_of_a_size();
  const auto refuse = [&](bool differs, const char* key) {
    if (!differs) return;
    check->Fail(absl::StrCat(path, ".", key),
                absl::StrFormat("%s.%s is set, but %s does not read it; remove it", path, key, attack->name()));
  };
  // Of what an attack does not read, the resolved form says what it does, so that it resolves to itself.
  if (!attack->has_loss()) attack->set_loss(known->losses[0]);
  if (!attack->has_steps()) attack->set_steps(known->steps);
  if (!attack->has_step_size()) attack->set_step_size(pgd ? suite.epsilon() / 10 : 0);
  if (!attack->has_restarts()) attack->set_restarts(1);
  if (!attack->has_random_start()) attack->set_random_start(known->random_start);
  if (!attack->has_judged_at()) attack->set_judged_at(pgd ? "last" : "any");
  if (!attack->has_targets()) attack->set_targets(known->targeted ? kDefaultTargets : 0);
  check->OneOf(path + ".loss", attack->loss(), known->losses);
  check->Int(path + ".steps", attack->steps(), 1, 10000);
  check->Int(path + ".restarts", attack->restarts(), 1, 100);
  check->OneOf(path + ".judged_at", attack->judged_at(), {"last", "any"});
  if (pgd) {
    check->Distance(path + ".step_size", attack->step_size(), suite.norm());
  } else {
    refuse(attack->step_size() != 0, "step_size");
    refuse(attack->random_start() != known->random_start, "random_start");
    refuse(attack->judged_at() == "last", "judged_at");
  }
  if (known->targeted) {
    check->Int(path + ".targets", attack->targets(), 1, 1000);
  } else {
    refuse(attack->targets() != 0, "targets");
  }
}

// `usual`: what norm and epsilon are by default.
void ResolveSuite(const std::string& at, const ham::v1::AttackOptions& usual, AttackSuite* suite, Checker* check) {
  if (!suite->has_norm()) suite->set_norm(usual.norm());
  check->OneOf(at + ".norm", suite->norm(), {"linf", "l2"});
  if (!suite->has_epsilon()) {
    suite->set_epsilon(suite->norm() == usual.norm() ? usual.epsilon() : DefaultEpsilon(suite->norm()));
  }
  check->Distance(at + ".epsilon", suite->epsilon(), suite->norm());
  if (!IsPlainName(suite->name(), 32)) {
    check->Fail(at + ".name", absl::StrFormat("%s.name is \"%s\"; allowed are 1 to 32 letters, digits and '-'", at,
                                              Shown(suite->name())));
  }
  if (suite->attacks_size() < 1 || suite->attacks_size() > 16) {
    check->Int(at + ".attacks (count)", suite->attacks_size(), 1, 16);
    return;
  }
  for (int a = 0; a < suite->attacks_size(); ++a) {
    ResolveEvaluationAttack(absl::StrCat(at, ".attacks[", a, "]"), *suite, suite->mutable_attacks(a), check);
  }
}

void ResolveSuites(const std::string& field, const ham::v1::AttackOptions& training,
                   google::protobuf::RepeatedPtrField<AttackSuite>* suites, std::set<std::string>* names,
                   Checker* check) {
  if (suites->size() > kMostSuites) {
    check->Int(absl::StrCat(field, " (count)"), suites->size(), 0, kMostSuites);
    return;
  }
  for (int s = 0; s < suites->size(); ++s) {
    AttackSuite* suite = suites->Mutable(s);
    const std::string at = absl::StrCat(field, "[", s, "]");
    ResolveSuite(at, training, suite, check);
    if (IsPlainName(suite->name(), 32) && !names->insert(suite->name()).second) {
      check->Fail(at + ".name", absl::StrFormat("%s.name is \"%s\", which another suite has; give each its own name",
                                                at, suite->name()));
    }
  }
}

void ResolveEvaluation(TrainSpec* train, Checker* check) {
  auto* evaluation = train->mutable_evaluation();
  if (!evaluation->has_every_epochs()) evaluation->set_every_epochs(1);
  if (!evaluation->has_reestimate_batch_norm()) evaluation->set_reestimate_batch_norm(false);
  check->Int("train.evaluation.every_epochs", evaluation->every_epochs(), 0, kMaxRows);
  if (evaluation->suites_size() == 0) {
    AttackSuite* suite = evaluation->add_suites();
    suite->set_name("pgd-20");
    suite->add_attacks();
  }
  std::set<std::string> names;
  const auto& attack = train->attack();
  ResolveSuites("train.evaluation.suites", attack, evaluation->mutable_suites(), &names, check);
  ResolveSuites("train.evaluation.final_suites", attack, evaluation->mutable_final_suites(), &names, check);
}

// Of `section`, "train" or "evaluate".
void ResolveResources(const std::string& section, const std::string& precision, ham::v1::ResourceSpec* resources,
                      Checker* check) {
  const std::string path = section + ".resources";
  if (!resources->has_world_size()) resources->set_world_size(1);
  if (!resources->has_device()) resources->set_device("cpu");
  if (!resources->has_threads_per_rank()) resources->set_threads_per_rank(1);
  check->Int(path + ".world_size", resources->world_size(), 1, 4096);
  check->OneOf(path + ".device", resources->device(), {"cpu", "cuda"});
  if (precision == "tf32" && resources->device() == "cpu") {
    check->Fail(section + ".precision",
                absl::StrFormat("%s.precision is \"tf32\", which only GPUs have; set it to fp32 or %s.device to cuda",
                                section, path));
  }
  check->Int(path + ".threads_per_rank", resources->threads_per_rank(), 1, 1024);
}

void ResolveRetry(const std::string& section, ham::v1::RetrySpec* retry, Checker* check) {
  if (!retry->has_max_attempts()) retry->set_max_attempts(5);
  check->Int(section + ".retry.max_attempts", retry->max_attempts(), 1, 1000);
}

// After resources.
void ResolveRanks(TrainSpec* train, Checker* check) {
  const ham::v1::ResourceSpec& resources = train->resources();
  if (resources.world_size() > train->batch_size() && train->batch_size() > 0) {
    check->Fail("train.resources.world_size",
                absl::StrFormat("train.resources.world_size is %d; allowed is at most train.batch_size, which is %d",
                                resources.world_size(), train->batch_size()));
  }
  if (!train->has_accumulation_steps()) train->set_accumulation_steps(1);
  const int rank_rows = std::max(1, train->batch_size() / std::max(1, resources.world_size()));
  if (train->accumulation_steps() < 1 || train->accumulation_steps() > rank_rows) {
    check->Fail("train.accumulation_steps",
                absl::StrFormat("train.accumulation_steps is %d; allowed is 1 to train.batch_size / "
                                "train.resources.world_size, which is %d",
                                train->accumulation_steps(), rank_rows));
  }
}

void ResolveTrain(TrainSpec* train, Checker* check) {
  ResolveData(train, check);
  ResolveTrainedModel(train, check);
  ResolveTraining(train, check);
  ResolveExtra(train, check);
  ResolveClassBias(train, check);
  ResolveAttack(train, check);
  ResolveMethod(train, check);
  CheckMixedLabels(*train, check);
  ResolveOptimizer(train, check);
  ResolveCheckpoint(train, check);
  ResolveEvaluation(train, check);
  ResolveResources("train", train->precision(), train->mutable_resources(), check);
  ResolveRanks(train, check);
  ResolveRetry("train", train->mutable_retry(), check);
}

// Whether model and data are still to come from a job.
bool AwaitsJob(const EvaluateSpec& evaluate) { return evaluate.weights().empty() && !evaluate.job().empty(); }

void ResolveEvaluated(EvaluateSpec* evaluate, Checker* check) {
  if (!evaluate->has_weights()) evaluate->set_weights("");
  if (!evaluate->has_job()) evaluate->set_job("");
  if (evaluate->weights().empty() && evaluate->job().empty()) {
    check->Fail("evaluate.weights",
                "evaluate.weights is missing; hand their file to hamctl submit with --weights FILE, or name a training "
                "job in evaluate.job");
  } else if (!evaluate->weights().empty() && !IsSha256Hex(evaluate->weights())) {
    check->Fail(
        "evaluate.weights",
        absl::StrFormat("evaluate.weights is \"%s\"; allowed is the SHA-256 of a file that the coordinator has, "
                        "64 of [0-9a-f]",
                        Shown(evaluate->weights())));
  }
  if (!evaluate->job().empty() && !IsJobName(evaluate->job())) {
    check->Fail("evaluate.job", absl::StrFormat("evaluate.job is \"%s\"; allowed is the name of a job, "
                                                "projects/default/jobs/JOB",
                                                Shown(evaluate->job())));
  }
}

void ResolveEvaluatedModel(EvaluateSpec* evaluate, Checker* check) {
  auto* model = evaluate->mutable_model();
  if (model->has_normalization() && model->normalization() != "none") {
    check->Fail("evaluate.model.normalization",
                absl::StrFormat("evaluate.model.normalization is \"%s\", but the weights say it themselves; remove it",
                                Shown(model->normalization())));
  }
  if (AwaitsJob(*evaluate)) return;
  ResolveModel("evaluate.model", model, check);
  // So that the resolved form is complete and resolves to itself.
  if (!model->has_normalization()) model->set_normalization("none");
}

void ResolveTestData(EvaluateSpec* evaluate, Checker* check) {
  auto* data = evaluate->mutable_data();
  if (!AwaitsJob(*evaluate) || data->has_name()) CheckDataSet("evaluate.data", *data, check);
  if (!data->has_rows()) data->set_rows(0);
  check->Int("evaluate.data.rows", data->rows(), 0, kMostRecordRows);
  if (!AwaitsJob(*evaluate)) ResolveImageSize("evaluate.data", data, check);
}

void ResolveEvaluatedSuite(AttackSuite* suite, Checker* check) {
  if (!suite->has_name()) suite->set_name("autoattack");
  if (suite->attacks_size() == 0) {
    for (const char* name : {"apgd", "apgd-t", "fab-t", "square"}) suite->add_attacks()->set_name(name);
  }
  ham::v1::AttackOptions usual;
  usual.set_norm("linf");
  usual.set_epsilon(DefaultEpsilon("linf"));
  ResolveSuite("evaluate.suite", usual, suite, check);
}

void ResolveEvaluate(EvaluateSpec* evaluate, Checker* check) {
  ResolveEvaluatedModel(evaluate, check);
  ResolveEvaluated(evaluate, check);
  ResolveTestData(evaluate, check);
  ResolveEvaluatedSuite(evaluate->mutable_suite(), check);
  if (!evaluate->has_precision()) evaluate->set_precision("fp32");
  check->Precision("evaluate", evaluate->precision());
  if (!evaluate->has_seed()) evaluate->set_seed(0);
  ResolveResources("evaluate", evaluate->precision(), evaluate->mutable_resources(), check);
  ResolveRetry("evaluate", evaluate->mutable_retry(), check);
}

}  // namespace

std::vector<FieldViolation> ResolveJobSpec(ham::v1::JobSpec* spec) {
  std::vector<FieldViolation> violations;
  Checker check(&violations);
  if (spec->has_train()) {
    ResolveTrain(spec->mutable_train(), &check);
  } else if (spec->has_evaluate()) {
    ResolveEvaluate(spec->mutable_evaluate(), &check);
  } else {
    check.Fail("train", "a job spec needs a section train or evaluate");
  }
  return violations;
}

namespace {

void CollectUnknown(const google::protobuf::Message& message, const std::string& at, std::vector<std::string>* out) {
  const auto* reflection = message.GetReflection();
  const auto& unknown = reflection->GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count() && out->size() < 20; ++i) {
    out->push_back(absl::StrCat(at, at.empty() ? "#" : ".#", unknown.field(i).number()));
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string path = absl::StrCat(at, at.empty() ? "" : ".", field->name());
    if (!field->is_repeated()) {
      CollectUnknown(reflection->GetMessage(message, field), path, out);
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      CollectUnknown(reflection->GetRepeatedMessage(message, field, i), absl::StrCat(path, "[", i, "]"), out);
    }
  }
}

}  // namespace

std::vector<std::string> FindUnknownFields(const google::protobuf::Message& message) {
  std::vector<std::string> out;
  CollectUnknown(message, "", &out);
  return out;
}

std::string MessageToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) std::abort();  // none of our messages has a type that JSON cannot carry
  return json;
}

}  // namespace ham
