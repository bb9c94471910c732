#include "proto/evaluation/record_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "proto/evaluation/record_json.h"
#include "proto/strict_json.h"
#include "proto/utf8.h"

namespace ham {
namespace {

using nlohmann::json;

constexpr char kAlgorithm[] = "ed25519";
constexpr std::string_view kEnd = "}\n";

struct Signature {
  std::string public_key;  // both as base64
  std::string value;
};

std::string FileText(const std::string& record, const std::optional<Signature>& signature) {
  std::string text = absl::StrCat("{\"record\":", record);
  if (signature.has_value()) {
    const json object = {{"algorithm", kAlgorithm}, {"public_key", signature->public_key}, {"value", signature->value}};
    absl::StrAppend(&text, ",\"signature\":", object.dump());
  }
  return absl::StrCat(text, std::string(kEnd));
}

absl::StatusOr<json> ParseEnvelope(const std::string& file) {
  if (file.size() > kMostRecordFileBytes) {
    return absl::DataLossError(
        absl::StrCat("the record file has ", file.size(), " bytes; at most ", kMostRecordFileBytes, " are allowed"));
  }
  if (!std::string_view(file).ends_with(kEnd)) {
    return absl::DataLossError("the record file is cut off: it does not end with \"}\" and a line feed");
  }
  absl::StatusOr<json> envelope = ParseStrictJson(file);
  if (!envelope.ok()) {
    // It quotes what it read.
    const std::string message = Shown(std::string(envelope.status().message()), 200);
    return absl::DataLossError(absl::StrCat("the record file is damaged: ", message));
  }
  if (!envelope->is_object() || !envelope->contains("record")) {
    return absl::DataLossError("the file is no record of an evaluation: it is no JSON object with \"record\"");
  }
  return envelope;
}

absl::StatusOr<std::optional<Signature>> ReadSignature(const json& envelope) {
  for (const auto& [name, value] : envelope.items()) {
    if (name == "record" || name == "signature") continue;
    return absl::DataLossError(absl::StrCat("the record file has an unknown field \"", Shown(name), "\""));
  }
  if (!envelope.contains("signature")) return std::nullopt;
  const json& in = envelope.at("signature");
  const auto has_text = [&in](const char* name) { return in.contains(name) && in.at(name).is_string(); };
  if (!in.is_object() || in.size() != 3 || !has_text("algorithm") || !has_text("public_key") || !has_text("value")) {
    return absl::DataLossError("signature is no object of the texts algorithm, public_key and value");
  }
  if (in.at("algorithm") != kAlgorithm) {
    return absl::DataLossError(absl::StrCat("signature.algorithm is \"", Shown(in.at("algorithm").get<std::string>()),
                                            "\"; allowed is \"", kAlgorithm, "\""));
  }
  return Signature{in.at("public_key").get<std::string>(), in.at("value").get<std::string>()};
}

absl::Status CheckCanonical(const std::string& file, const std::string& canonical) {
  if (file == canonical) return absl::OkStatus();
  const auto place = std::mismatch(file.begin(), file.end(), canonical.begin(), canonical.end()).first - file.begin();
  return absl::DataLossError(absl::StrCat("the record file is not in canonical form from byte ", place,
                                          " on: a program other than ham has written it anew, so that no signature "
                                          "could fit; take the file as ham made it"));
}

absl::Status CheckSignature(const std::string& record, const Signature& signature) {
  const absl::StatusOr<std::string> public_key = Base64Decode(signature.public_key);
  const absl::StatusOr<std::string> value = Base64Decode(signature.value);
  if (public_key.ok() && value.ok() && IsSignature(*public_key, record, *value)) return absl::OkStatus();
  return absl::DataLossError(
      "the signature does not fit the record: one of them was altered after signing; get the file again from where it "
      "was made");
}

}  // namespace

std::string UnsignedRecordFile(const EvaluationRecord& record) { return FileText(RecordText(record), std::nullopt); }

absl::StatusOr<std::string> SignRecordFile(const std::string& file, const SigningKey& key) {
  const absl::StatusOr<RecordFile> parsed = ParseRecordFile(file);
  if (!parsed.ok()) return parsed.status();
  if (!parsed->signed_by.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the record is signed already, with the key ", parsed->signed_by, "; sign the file without it"));
  }
  const std::string record = RecordText(parsed->record);
  return FileText(record, Signature{Base64Encode(key.public_key()), Base64Encode(key.Sign(record))});
}

absl::StatusOr<RecordFile> ParseRecordFile(const std::string& file) {
  const absl::StatusOr<json> envelope = ParseEnvelope(file);
  if (!envelope.ok()) return envelope.status();
  const absl::StatusOr<std::optional<Signature>> signature = ReadSignature(*envelope);
  if (!signature.ok()) return signature.status();
  absl::StatusOr<EvaluationRecord> record = ReadRecordJson(envelope->at("record"));
  if (!record.ok()) return record.status();
  const std::string text = RecordText(*record);
  if (absl::Status status = CheckCanonical(file, FileText(text, *signature)); !status.ok()) return status;
  // Before the contents: of an altered record one does not want to know where it contradicts itself.
  if (signature->has_value()) {
    if (absl::Status status = CheckSignature(text, **signature); !status.ok()) return status;
  }
  if (absl::Status status = CheckRecord(*record); !status.ok()) {
    return absl::DataLossError(
        absl::StrCat("the record contradicts itself or its schema: ", std::string(status.message())));
  }
  return RecordFile{*std::move(record), signature->has_value() ? (*signature)->public_key : ""};
}

absl::Status RequireSigner(const RecordFile& file, const std::string& public_key) {
  if (file.signed_by.empty()) {
    return absl::FailedPreconditionError("the record is unsigned: nothing says that it is as its evaluation made it");
  }
  if (public_key.empty() || file.signed_by == public_key) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the record is signed with the key ", file.signed_by, ", not with ", Shown(public_key)));
}

absl::StatusOr<RecordFile> ReadRecordFile(const std::string& path, const std::optional<std::string>& signed_by) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  std::string text, piece(1 << 20, '\0');
  while (text.size() <= kMostRecordFileBytes && file) {  // /dev/zero ends too
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    text.append(piece, 0, static_cast<size_t>(file.gcount()));
  }
  absl::StatusOr<RecordFile> parsed = ParseRecordFile(text);
  absl::Status status = parsed.status();
  if (status.ok() && signed_by.has_value()) status = RequireSigner(*parsed, *signed_by);
  if (status.ok()) return parsed;
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

}  // namespace ham
