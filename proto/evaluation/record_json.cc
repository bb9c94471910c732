#include "proto/evaluation/record_json.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <limits>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/strict_json.h"
#include "proto/utf8.h"

namespace ham {
namespace {

using nlohmann::json;

constexpr std::pair<WarningType, const char*> kWarningNames[] = {
    {WarningType::kRandomized, "RANDOMIZED"},
    {WarningType::kProbabilities, "PROBABILITIES"},
    {WarningType::kZeroGradients, "ZERO_GRADIENTS"},
    {WarningType::kBlackBoxStronger, "BLACK_BOX_STRONGER"},
    {WarningType::kDynamicForward, "DYNAMIC_FORWARD"},
    {WarningType::kOutOfRange, "OUT_OF_RANGE"},
    {WarningType::kOutsideBall, "OUTSIDE_BALL"},
    {WarningType::kWeakPgd, "WEAK_PGD"},
    {WarningType::kLossStillRising, "LOSS_STILL_RISING"},
    {WarningType::kRobustAtLargeEpsilon, "ROBUST_AT_LARGE_EPSILON"},
    {WarningType::kFewerTargets, "FEWER_TARGETS"}};

constexpr std::pair<double, const char*> kNonFinite[] = {{std::numeric_limits<double>::infinity(), "Infinity"},
                                                         {-std::numeric_limits<double>::infinity(), "-Infinity"}};

// A field of the type `bytes`.
struct Bytes {
  std::string bytes;
};

// Parts of a record as they stand in JSON.
struct PackedRows {
  uint32_t rows = 0;
  uint32_t first_row = 0;
  Bytes row_ids;
};
struct PackedSamples {
  Bytes labels;
  Bytes clean_predictions;
  std::vector<Bytes> broken;
  Bytes attack_predictions;
  Bytes margins;
};

template <class Number>
Bytes PackNumbers(const auto& values) {
  static_assert(std::endian::native == std::endian::little);
  std::vector<Number> numbers(values.size());
  std::transform(values.begin(), values.end(), numbers.begin(), [](auto value) { return static_cast<Number>(value); });
  return {std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(Number))};
}

// False where the bytes are not `count` numbers.
template <class Number, class Value>
bool UnpackNumbers(const Bytes& bytes, size_t count, std::vector<Value>* values) {
  if (bytes.bytes.size() != count * sizeof(Number)) return false;
  std::vector<Number> numbers(count);
  std::copy(bytes.bytes.begin(), bytes.bytes.end(), reinterpret_cast<char*>(numbers.data()));
  values->assign(numbers.begin(), numbers.end());
  return true;
}

PackedRows PackRows(const std::vector<uint32_t>& ids) {
  PackedRows packed;
  packed.rows = static_cast<uint32_t>(ids.size());
  // CheckRecord sees to it that they ascend.
  if (!ids.empty() && ids.back() - ids.front() != ids.size() - 1) {
    packed.row_ids = PackNumbers<uint32_t>(ids);
  } else if (!ids.empty()) {
    packed.first_row = ids.front();
  }
  return packed;
}

absl::Status UnpackRows(const PackedRows& packed, std::vector<uint32_t>* ids) {
  if (packed.rows > kMostRecordRows) {
    return absl::DataLossError(
        absl::StrCat("data.rows is ", packed.rows, "; at most ", kMostRecordRows, " are allowed"));
  }
  if (!packed.row_ids.bytes.empty()) {
    if (UnpackNumbers<uint32_t>(packed.row_ids, packed.rows, ids)) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("data.row_ids has ", packed.row_ids.bytes.size(), " bytes for ",
                                            packed.rows, " rows; 4 a row are needed"));
  }
  if (uint64_t{packed.first_row} + packed.rows > uint64_t{1} << 32) {
    return absl::DataLossError(
        absl::StrCat("data.first_row is ", packed.first_row, "; with ", packed.rows, " rows that is beyond 32 bits"));
  }
  ids->resize(packed.rows);
  for (uint32_t i = 0; i < packed.rows; ++i) (*ids)[i] = packed.first_row + i;
  return absl::OkStatus();
}

PackedSamples PackSamples(const EvaluationOutcomes& samples, size_t attacks) {
  PackedSamples packed{PackNumbers<uint16_t>(samples.labels), PackNumbers<uint16_t>(samples.clean_predictions),
                       std::vector<Bytes>(attacks), PackNumbers<uint16_t>(samples.attack_predictions),
                       PackNumbers<float>(samples.margins)};
  for (Bytes& bits : packed.broken) bits.bytes.resize((samples.rows() + 7) / 8);
  for (size_t i = 0; i < samples.rows(); ++i) {
    if (samples.broken_by[i] == kNotBroken) continue;
    char& byte = packed.broken[static_cast<size_t>(samples.broken_by[i])].bytes[i / 8];
    byte = static_cast<char>(byte | 1 << (i % 8));
  }
  return packed;
}

absl::Status UnpackBits(const std::string& bits, int32_t attack, std::vector<int32_t>* broken_by) {
  const size_t rows = broken_by->size();
  const std::string field = absl::StrCat("samples.broken[", attack, "]");
  if (bits.size() != (rows + 7) / 8) {
    return absl::DataLossError(
        absl::StrCat(field, " has ", bits.size(), " bytes for ", rows, " rows; a bit a row is needed"));
  }
  for (size_t i = 0; i < bits.size() * 8; ++i) {
    if ((bits[i / 8] >> (i % 8) & 1) == 0) continue;
    if (i >= rows) return absl::DataLossError(absl::StrCat(field, " has a bit beyond its ", rows, " rows"));
    if ((*broken_by)[i] != kNotBroken) {
      return absl::DataLossError(
          absl::StrCat(field, " breaks row ", i, ", which attack ", (*broken_by)[i], " had broken already"));
    }
    (*broken_by)[i] = attack;
  }
  return absl::OkStatus();
}

absl::Status UnpackSamples(const PackedSamples& packed, size_t rows, size_t attacks, EvaluationOutcomes* samples) {
  const auto wrong = [rows](const char* field, const Bytes& bytes, size_t size) {
    return absl::DataLossError(absl::StrCat("samples.", field, " has ", bytes.bytes.size(), " bytes for ", rows,
                                            " rows; ", size, " a row are needed"));
  };
  if (!UnpackNumbers<uint16_t>(packed.labels, rows, &samples->labels)) return wrong("labels", packed.labels, 2);
  if (!UnpackNumbers<uint16_t>(packed.clean_predictions, rows, &samples->clean_predictions)) {
    return wrong("clean_predictions", packed.clean_predictions, 2);
  }
  if (!UnpackNumbers<uint16_t>(packed.attack_predictions, rows, &samples->attack_predictions)) {
    return wrong("attack_predictions", packed.attack_predictions, 2);
  }
  if (!UnpackNumbers<float>(packed.margins, rows, &samples->margins)) return wrong("margins", packed.margins, 4);
  if (packed.broken.size() != attacks) {
    return absl::DataLossError(
        absl::StrCat("samples.broken has ", packed.broken.size(), " entries for ", attacks, " attacks"));
  }
  samples->broken_by.assign(rows, kNotBroken);
  for (size_t a = 0; a < attacks; ++a) {
    const absl::Status status = UnpackBits(packed.broken[a].bytes, static_cast<int32_t>(a), &samples->broken_by);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// The fields of each message, once: an Archive, which writes or reads, is called with the name and value of each.
template <class T, class Message>
concept Is = std::same_as<std::remove_const_t<T>, Message>;

template <class Archive>
void Fields(Archive& archive, Is<EvaluatedModel> auto& model) {
  archive("name", model.name);
  archive("weights_digest", model.weights_digest);
  archive("activation", model.activation);
  archive("extra_block", model.extra_block);
  archive("normalization_mean", model.normalization_mean);
  archive("normalization_standard_deviation", model.normalization_standard_deviation);
  archive("source", model.source);
}

template <class Archive>
void Fields(Archive& archive, Is<EvaluatedData> auto& data) {
  archive("name", data.name);
  archive("split", data.split);
  archive("digest", data.digest);
  archive("image_size", data.image_size);
  archive("class_names", data.class_names);
  PackedRows packed;
  if constexpr (!Archive::kReads) packed = PackRows(data.row_ids);
  archive("rows", packed.rows);
  archive("first_row", packed.first_row);
  archive("row_ids", packed.row_ids);
  if constexpr (Archive::kReads) archive.Then([&] { return UnpackRows(packed, &data.row_ids); });
}

template <class Archive>
void Fields(Archive& archive, Is<EvaluationThreat> auto& threat) {
  archive("norm", threat.norm);
  archive("epsilon", threat.epsilon);
}

template <class Archive>
void Fields(Archive& archive, Is<RecordedAttack> auto& attack) {
  archive("name", attack.name);
  archive("loss", attack.loss);
  archive("steps", attack.steps);
  archive("step_size", attack.step_size);
  archive("restarts", attack.restarts);
  archive("targets", attack.targets);
  archive("random_start", attack.random_start);
  archive("judged_at", attack.judged_at);
  archive("seconds", attack.seconds);
  archive("forward_passes", attack.forward_passes);
  archive("gradient_passes", attack.gradient_passes);
  archive("rows_tried", attack.rows_tried);
  archive("rows_broken", attack.rows_broken);
}

template <class Archive>
void Fields(Archive& archive, Is<PackedSamples> auto& samples) {
  archive("labels", samples.labels);
  archive("clean_predictions", samples.clean_predictions);
  archive("broken", samples.broken);
  archive("attack_predictions", samples.attack_predictions);
  archive("margins", samples.margins);
}

template <class Archive>
void Fields(Archive& archive, Is<Estimate> auto& estimate) {
  archive("value", estimate.value);
  archive("low", estimate.low);
  archive("high", estimate.high);
}

template <class Archive>
void Fields(Archive& archive, Is<ClassFigures> auto& figures) {
  archive("rows", figures.rows);
  archive("clean_accuracy", figures.clean_accuracy);
  archive("robust_accuracy", figures.robust_accuracy);
  archive("boundary_error", figures.boundary_error);
}

template <class Archive>
void Fields(Archive& archive, Is<AttackEffect> auto& effect) {
  archive("robust_accuracy", effect.robust_accuracy);
  archive("lowered_by", effect.lowered_by);
  archive("worst_class_robust_accuracy", effect.worst_class_robust_accuracy);
  archive("broken_by_class", effect.broken_by_class);
}

template <class Archive>
void Fields(Archive& archive, Is<EvaluationFigures> auto& figures) {
  archive("clean_accuracy", figures.clean_accuracy);
  archive("robust_accuracy", figures.robust_accuracy);
  archive("boundary_error", figures.boundary_error);
  archive("classes", figures.classes);
  archive("worst_class", figures.worst_class);
  archive("worst_class_robust_accuracy", figures.worst_class_robust_accuracy);
  archive("worst_k_robust_accuracy", figures.worst_k_robust_accuracy);
  archive("worst_30_percent_robust_accuracy", figures.worst_30_percent_robust_accuracy);
  archive("best_worst_gap", figures.best_worst_gap);
  archive("standard_deviation", figures.standard_deviation);
  archive("normalized_standard_deviation", figures.normalized_standard_deviation);
  archive("confusion", figures.confusion);
  archive("attacks", figures.attacks);
  archive("worst_k", figures.options.worst_k);
  archive("resamples", figures.options.resamples);
  archive("resampling_seed", figures.options.seed);
}

template <class Archive>
void Fields(Archive& archive, Is<EvaluationWarning> auto& warning) {
  archive("type", warning.type);
  archive("message", warning.message);
}

template <class Archive>
void Fields(Archive& archive, Is<EvaluationRecord> auto& record) {
  int32_t version = kRecordFormatVersion;  // ReadRecordJson has looked at it
  archive("format_version", version);
  archive("model", record.model);
  archive("data", record.data);
  archive("threat", record.threat);
  archive("attacks", record.attacks);
  archive("precision", record.precision);
  archive("device", record.device);
  archive("seed", record.seed);
  archive("code_version", record.code_version);
  archive("build_id", record.build_id);
  PackedSamples samples;
  if constexpr (!Archive::kReads) samples = PackSamples(record.samples, record.attacks.size());
  archive("samples", samples);
  if constexpr (Archive::kReads) {
    archive.Then(
        [&] { return UnpackSamples(samples, record.data.row_ids.size(), record.attacks.size(), &record.samples); });
  }
  archive("figures", record.figures);
  archive("warnings", record.warnings);
  archive("trusted", record.trusted);
}

class Writer {
 public:
  static constexpr bool kReads = false;

  template <class T>
  void operator()(const char* name, const T& value) {
    out_[name] = Json(value);
  }

  template <class Message>
  static json Json(const Message& message) {
    Writer writer;
    Fields(writer, message);
    return std::move(writer.out_);
  }
  template <class T>
  static json Json(const std::vector<T>& values) {
    json out = json::array();
    for (const T& value : values) out.push_back(Json(value));
    return out;
  }
  static json Json(const std::string& value) { return value; }
  static json Json(const Bytes& value) { return Base64Encode(value.bytes); }
  static json Json(bool value) { return value; }
  static json Json(int32_t value) { return value; }
  static json Json(uint32_t value) { return value; }
  static json Json(uint64_t value) { return absl::StrCat(value); }
  static json Json(WarningType value) { return WarningTypeName(value); }
  static json Json(double value) {
    if (std::isnan(value)) return "NaN";
    for (const auto& [number, name] : kNonFinite) {
      if (value == number) return name;
    }
    return value;
  }

 private:
  json out_ = json::object();
};

// Of one object. After the first error nothing more is read.
class Reader {
 public:
  static constexpr bool kReads = true;

  Reader(const json& object, std::string path, absl::Status* status)
      : object_(object), path_(std::move(path)), status_(status) {
    if (!object_.is_object()) Fail(path_, "an object");
  }

  template <class T>
  void operator()(const char* name, T& value) {
    names_.insert(name);
    if (!status_->ok()) return;
    const auto found = object_.find(name);
    const std::string path = absl::StrCat(path_.empty() ? "" : path_ + ".", name);
    if (found == object_.end()) {
      *status_ = absl::DataLossError(absl::StrCat(path, " is missing: no part of a record may be left out"));
      return;
    }
    Read(*found, path, &value);
  }

  // For fields that are read: what they mean together.
  void Then(const auto& step) {
    if (status_->ok()) *status_ = step();
  }

  // After all fields were read.
  void RefuseOthers() {
    if (!status_->ok()) return;
    for (const auto& [name, value] : object_.items()) {
      if (names_.count(name) > 0) continue;
      *status_ = absl::DataLossError(
          absl::StrCat(path_.empty() ? "the record" : path_, " has an unknown field \"", Shown(name), "\""));
      return;
    }
  }

  template <class Message>
  static absl::Status ReadMessage(const json& object, const std::string& path, Message* message) {
    absl::Status status;
    Reader reader(object, path, &status);
    Fields(reader, *message);
    reader.RefuseOthers();
    return status;
  }

 private:
  void Fail(const std::string& path, const std::string& needed) {
    *status_ = absl::DataLossError(absl::StrCat(path.empty() ? "the record" : path, " is not ", needed));
  }

  template <class Message>
  void Read(const json& in, const std::string& path, Message* message) {
    *status_ = ReadMessage(in, path, message);
  }
  template <class T>
  void Read(const json& in, const std::string& path, std::vector<T>* values) {
    if (!in.is_array()) return Fail(path, "a list");
    values->reserve(in.size());
    for (size_t i = 0; i < in.size() && status_->ok(); ++i) {
      values->push_back(T{});
      Read(in[i], absl::StrCat(path, "[", i, "]"), &values->back());
    }
  }
  void Read(const json& in, const std::string& path, std::string* value) {
    if (!in.is_string()) return Fail(path, "text");
    *value = in.get<std::string>();
  }
  void Read(const json& in, const std::string& path, Bytes* value) {
    absl::StatusOr<std::string> bytes =
        in.is_string() ? Base64Decode(in.get_ref<const std::string&>()) : absl::InvalidArgumentError("");
    if (!bytes.ok()) return Fail(path, "base64 text");
    value->bytes = *std::move(bytes);
  }
  void Read(const json& in, const std::string& path, bool* value) {
    if (!in.is_boolean()) return Fail(path, "true or false");
    *value = in.get<bool>();
  }
  template <class Integer>
  void ReadInteger(const json& in, const std::string& path, Integer* value) {
    using Limits = std::numeric_limits<Integer>;
    const bool fits = in.is_number_unsigned() ? in.get<uint64_t>() <= static_cast<uint64_t>(Limits::max())
                                              : in.is_number_integer() && in.get<int64_t>() >= Limits::min();
    if (!fits) return Fail(path, absl::StrCat("a whole number from ", Limits::min(), " to ", Limits::max()));
    *value = in.get<Integer>();
  }
  void Read(const json& in, const std::string& path, int32_t* value) { ReadInteger(in, path, value); }
  void Read(const json& in, const std::string& path, uint32_t* value) { ReadInteger(in, path, value); }
  void Read(const json& in, const std::string& path, uint64_t* value) {
    if (in.is_string() && absl::SimpleAtoi(in.get_ref<const std::string&>(), value)) return;
    Fail(path, "text of a whole number below 2^64");
  }
  void Read(const json& in, const std::string& path, double* value) {
    if (in.is_number()) {
      *value = in.get<double>();
      return;
    }
    if (in == "NaN") {
      *value = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    for (const auto& [number, name] : kNonFinite) {
      if (in != name) continue;
      *value = number;
      return;
    }
    Fail(path, "a number, \"NaN\", \"Infinity\" or \"-Infinity\"");
  }
  void Read(const json& in, const std::string& path, WarningType* value) {
    for (const auto& [type, name] : kWarningNames) {
      if (in != name) continue;
      *value = type;
      return;
    }
    Fail(path, "a known type of warning");
  }

  const json& object_;
  const std::string path_;
  absl::Status* const status_;
  std::set<std::string> names_;
};

}  // namespace

const char* WarningTypeName(WarningType type) {
  for (const auto& [known, name] : kWarningNames) {
    if (type == known) return name;
  }
  return "TYPE_UNSPECIFIED";
}

json RecordJson(const EvaluationRecord& record) { return Writer::Json(record); }
json FiguresJson(const EvaluationFigures& figures) { return Writer::Json(figures); }
json EstimateJson(const Estimate& estimate) { return Writer::Json(estimate); }
json NumberJson(double value) { return Writer::Json(value); }

absl::StatusOr<EvaluationRecord> ReadRecordJson(const json& in) {
  const json version = in.is_object() ? in.value("format_version", json()) : json();
  if (version.is_number_integer() && version != kRecordFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("format_version is ", version.dump(), "; this program reads ",
                                                      kRecordFormatVersion,
                                                      ": use the version of ham that wrote the record"));
  }
  EvaluationRecord record;
  const absl::Status status = Reader::ReadMessage(in, "", &record);
  if (!status.ok()) return status;
  return record;
}

}  // namespace ham
