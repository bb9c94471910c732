#include "proto/job_spec.h"

#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/unknown_field_set.h"
#include "google/protobuf/util/json_util.h"
#include "proto/utf8.h"

namespace ham {
namespace {

using ham::v1::AttackSuite;
using ham::v1::EvaluationAttack;
using ham::v1::TrainSpec;

constexpr int kMaxRows = std::numeric_limits<int>::max();

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

void ResolveData(TrainSpec* train, Checker* check) {
  auto* data = train->mutable_data();
  if (!data->has_name()) {
    check->Fail("train.data.name",
                "train.data.name is missing; give the name of a data set that workers have, "
                "for example fashion-mnist");
  } else {
    if (!IsPlainName(data->name(), 63)) {
      check->Fail("train.data.name",
                  absl::StrFormat("train.data.name is \"%s\"; allowed are 1 to 63 letters, digits and '-' (a name, "
                                  "not a path)",
                                  Shown(data->name())));
    }
  }
  if (!data->has_train_rows()) data->set_train_rows(0);
  if (!data->has_test_rows()) data->set_test_rows(2000);
  check->Int("train.data.train_rows", data->train_rows(), 0, kMaxRows);
  check->Int("train.data.test_rows", data->test_rows(), 0, kMaxRows);
}

void ResolveModel(TrainSpec* train, Checker* check) {
  auto* model = train->mutable_model();
  if (!model->has_name()) model->set_name("cnn-16-32");
  check->OneOf("train.model.name", model->name(), {"cnn-16-32", "cnn-32-64"});
}

void ResolveAttack(TrainSpec* train, Checker* check) {
  auto* attack = train->mutable_attack();
  if (!attack->has_epsilon()) attack->set_epsilon(8.0 / 255.0);
  if (!attack->has_step_size()) attack->set_step_size(attack->epsilon() / 4);
  if (!attack->has_steps()) attack->set_steps(10);
  if (!attack->has_random_start()) attack->set_random_start(true);
  check->Real("train.attack.epsilon", attack->epsilon(), 0, 1, true, false);
  check->Real("train.attack.step_size", attack->step_size(), 0, 1, true, false);
  check->Int("train.attack.steps", attack->steps(), 1, 1000);
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
    method->set_mining_step(train->attack().steps());
    method->set_mining_start_epoch(kMaxRows);
    method->set_retained_easy_share(0);
    method->set_minimum_hard(1);
    return;
  }
  if (!method->has_mining_step()) method->set_mining_step(std::min(3, train->attack().steps()));
  if (!method->has_mining_start_epoch()) method->set_mining_start_epoch(1 + train->epochs() / 2);
  if (!method->has_retained_easy_share()) method->set_retained_easy_share(0);
  if (!method->has_minimum_hard()) method->set_minimum_hard(1);
  if (method->mining_step() < 1 || method->mining_step() > train->attack().steps()) {
    check->Fail("train.method.mining_step",
                absl::StrFormat("train.method.mining_step is %d; allowed is 1 to train.attack.steps, which is %d",
                                method->mining_step(), train->attack().steps()));
  }
  check->Int("train.method.mining_start_epoch", method->mining_start_epoch(), 1, kMaxRows);
  check->Real("train.method.retained_easy_share", method->retained_easy_share(), 0, 1, false, false);
  check->Int("train.method.minimum_hard", method->minimum_hard(), 1, train->batch_size());
}

void ResolveOptimizer(TrainSpec* train, Checker* check) {
  auto* optimizer = train->mutable_optimizer();
  if (!optimizer->has_name()) optimizer->set_name("adam");
  check->OneOf("train.optimizer.name", optimizer->name(), {"adam", "sgd"});
  if (!optimizer->has_learning_rate()) optimizer->set_learning_rate(optimizer->name() == "sgd" ? 0.1 : 0.001);
  if (!optimizer->has_momentum()) optimizer->set_momentum(0.9);
  if (!optimizer->has_weight_decay()) optimizer->set_weight_decay(0);
  if (!optimizer->has_schedule()) optimizer->set_schedule("cosine");
  if (!optimizer->has_gamma()) optimizer->set_gamma(0.1);
  check->Real("train.optimizer.learning_rate", optimizer->learning_rate(), 0, 10, true, false);
  check->Real("train.optimizer.momentum", optimizer->momentum(), 0, 1, false, true);
  check->Real("train.optimizer.weight_decay", optimizer->weight_decay(), 0, 1, false, false);
  check->OneOf("train.optimizer.schedule", optimizer->schedule(), {"constant", "step", "cosine"});
  check->Real("train.optimizer.gamma", optimizer->gamma(), 0, 1, true, false);
  if (optimizer->milestones_size() > 0 && optimizer->schedule() != "step") {
    check->Fail("train.optimizer.milestones",
                absl::StrFormat("train.optimizer.milestones is set, but schedule \"%s\" does not read it; set "
                                "train.optimizer.schedule to step or remove it",
                                Shown(optimizer->schedule())));
  }
  if (optimizer->schedule() == "step" && optimizer->milestones_size() == 0) {
    check->Fail("train.optimizer.milestones",
                "train.optimizer.milestones is missing; schedule step needs ascending epochs, for example [60, 90]");
  }
  if (optimizer->milestones_size() > 1000) {
    check->Int("train.optimizer.milestones (count)", optimizer->milestones_size(), 0, 1000);
    return;
  }
  for (int i = 0; i < optimizer->milestones_size(); ++i) {
    const int64_t low = i == 0 ? 1 : int64_t{optimizer->milestones(i - 1)} + 1;
    check->Int(absl::StrCat("train.optimizer.milestones[", i, "]"), optimizer->milestones(i), low, kMaxRows);
  }
}

void ResolveSuites(const std::string& field, double default_epsilon,
                   google::protobuf::RepeatedPtrField<AttackSuite>* suites, std::set<std::string>* names,
                   Checker* check) {
  if (suites->size() > kMostSuites) {
    check->Int(absl::StrCat(field, " (count)"), suites->size(), 0, kMostSuites);
    return;
  }
  for (int s = 0; s < suites->size(); ++s) {
    AttackSuite* suite = suites->Mutable(s);
    const std::string at = absl::StrCat(field, "[", s, "]");
    if (!suite->has_epsilon()) suite->set_epsilon(default_epsilon);
    check->Real(at + ".epsilon", suite->epsilon(), 0, 1, true, false);
    if (!IsPlainName(suite->name(), 32)) {
      check->Fail(at + ".name", absl::StrFormat("%s.name is \"%s\"; allowed are 1 to 32 letters, digits and '-'", at,
                                                Shown(suite->name())));
    } else if (!names->insert(suite->name()).second) {
      check->Fail(at + ".name", absl::StrFormat("%s.name is \"%s\", which another suite has; give each its own name",
                                                at, suite->name()));
    }
    if (suite->attacks_size() < 1 || suite->attacks_size() > 16) {
      check->Int(at + ".attacks (count)", suite->attacks_size(), 1, 16);
      continue;
    }
    for (int a = 0; a < suite->attacks_size(); ++a) {
      EvaluationAttack* attack = suite->mutable_attacks(a);
      const std::string path = absl::StrCat(at, ".attacks[", a, "]");
      if (!attack->has_loss()) attack->set_loss("cross_entropy");
      if (!attack->has_steps()) attack->set_steps(20);
      if (!attack->has_step_size()) attack->set_step_size(suite->epsilon() / 10);
      if (!attack->has_restarts()) attack->set_restarts(1);
      if (!attack->has_random_start()) attack->set_random_start(true);
      check->OneOf(path + ".loss", attack->loss(), {"cross_entropy", "margin"});
      check->Int(path + ".steps", attack->steps(), 1, 10000);
      check->Real(path + ".step_size", attack->step_size(), 0, 1, true, false);
      check->Int(path + ".restarts", attack->restarts(), 1, 100);
    }
  }
}

void ResolveEvaluation(TrainSpec* train, Checker* check) {
  auto* evaluation = train->mutable_evaluation();
  if (!evaluation->has_every_epochs()) evaluation->set_every_epochs(1);
  check->Int("train.evaluation.every_epochs", evaluation->every_epochs(), 0, kMaxRows);
  if (evaluation->suites_size() == 0) {
    AttackSuite* suite = evaluation->add_suites();
    suite->set_name("pgd-20");
    suite->add_attacks();
  }
  std::set<std::string> names;
  const double epsilon = train->attack().epsilon();
  ResolveSuites("train.evaluation.suites", epsilon, evaluation->mutable_suites(), &names, check);
  ResolveSuites("train.evaluation.final_suites", epsilon, evaluation->mutable_final_suites(), &names, check);
}

void ResolveResources(TrainSpec* train, Checker* check) {
  auto* resources = train->mutable_resources();
  if (!resources->has_world_size()) resources->set_world_size(1);
  if (!resources->has_device()) resources->set_device("cpu");
  if (!resources->has_threads_per_rank()) resources->set_threads_per_rank(1);
  check->Int("train.resources.world_size", resources->world_size(), 1, 4096);
  if (resources->device() == "cuda") {
    check->Fail("train.resources.device",
                "train.resources.device is \"cuda\"; this version trains on cpu only, set it to cpu");
  } else {
    check->OneOf("train.resources.device", resources->device(), {"cpu"});
  }
  check->Int("train.resources.threads_per_rank", resources->threads_per_rank(), 1, 1024);
  if (resources->world_size() > train->batch_size() && train->batch_size() > 0) {
    check->Fail("train.resources.world_size",
                absl::StrFormat("train.resources.world_size is %d; allowed is at most train.batch_size, which is %d",
                                resources->world_size(), train->batch_size()));
  }
  auto* retry = train->mutable_retry();
  if (!retry->has_max_attempts()) retry->set_max_attempts(5);
  check->Int("train.retry.max_attempts", retry->max_attempts(), 1, 1000);
}

}  // namespace

std::vector<FieldViolation> ResolveJobSpec(ham::v1::JobSpec* spec) {
  std::vector<FieldViolation> violations;
  Checker check(&violations);
  if (!spec->has_train()) {
    check.Fail("train", "train is missing; a job spec needs a section train");
    return violations;
  }
  TrainSpec* train = spec->mutable_train();
  if (!train->has_epochs()) train->set_epochs(12);
  if (!train->has_batch_size()) train->set_batch_size(128);
  if (!train->has_ema_decay()) train->set_ema_decay(0.99);
  if (!train->has_seed()) train->set_seed(0);
  ResolveData(train, &check);
  ResolveModel(train, &check);
  check.Int("train.epochs", train->epochs(), 1, 100000);
  check.Int("train.batch_size", train->batch_size(), 1, 65536);
  check.Real("train.ema_decay", train->ema_decay(), 0, 1, false, true);
  ResolveAttack(train, &check);
  ResolveMethod(train, &check);
  ResolveOptimizer(train, &check);
  ResolveEvaluation(train, &check);
  ResolveResources(train, &check);
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
