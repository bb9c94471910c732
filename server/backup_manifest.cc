#include "server/backup_manifest.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/atomic_file.h"
#include "proto/sha256.h"

namespace ham::server {
namespace {

using nlohmann::json;

constexpr char kName[] = "manifest.json";
constexpr int kFormatVersion = 1;

std::string PathOf(const std::string& directory) { return absl::StrCat(directory, "/", kName); }

// A sentence may name a damaged row, whose name is no text.
std::string Dump(const json& value, int indent) {
  return value.dump(indent, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

std::string DigestOf(const json& body) { return Sha256Hex(Dump(body, -1)); }
std::string TextOf(const json& file) { return Dump(file, 1) + "\n"; }

// Below the directory, and nowhere else.
bool IsPlainName(const std::string& name) {
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(name, '/'))) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

// Throws what json throws, for what no backup writes.
BackupManifest Parse(const json& in) {
  BackupManifest manifest;
  manifest.cluster_id = in.at("cluster_id").get<std::string>();
  manifest.left_out = in.at("left_out").get<std::vector<std::string>>();
  for (const json& file : in.at("files")) {
    manifest.files[file.at("name").get<std::string>()] = {file.at("bytes").get<int64_t>(),
                                                          file.at("sha256").get<std::string>()};
  }
  return manifest;
}

}  // namespace

absl::Status WriteBackupManifest(const std::string& directory, const BackupManifest& manifest) {
  json files = json::array();
  for (const auto& [name, facts] : manifest.files) {
    files.push_back({{"name", name}, {"bytes", facts.bytes}, {"sha256", facts.sha256}});
  }
  const json body = {{"format_version", kFormatVersion},
                     {"cluster_id", manifest.cluster_id},
                     {"time", absl::FormatTime(absl::RFC3339_full, manifest.time, absl::UTCTimeZone())},
                     {"files", files},
                     {"left_out", manifest.left_out}};
  return WriteFileAtomically(PathOf(directory), TextOf({{"manifest", body}, {"sha256", DigestOf(body)}}), 0600);
}

absl::StatusOr<BackupManifest> ReadBackupManifest(const std::string& directory) {
  const std::string path = PathOf(directory);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::FailedPreconditionError(absl::StrCat(
        directory, " has no ", kName, ": it is no backup, or one that was not finished; name another directory"));
  }
  const absl::Status damaged = absl::DataLossError(absl::StrCat(path, " is damaged: use another backup"));
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const json in = json::parse(text, nullptr, /*allow_exceptions=*/false);
  try {
    if (TextOf(in) != text) return damaged;
    const json& body = in.at("manifest");
    if (DigestOf(body) != in.at("sha256").get<std::string>()) return damaged;
    if (const int version = body.at("format_version"); version > kFormatVersion) {
      return absl::FailedPreconditionError(absl::StrCat(directory, " is a backup of format ", version,
                                                        " of a newer release, this one reads up to ", kFormatVersion,
                                                        ": run the newer release"));
    }
    BackupManifest manifest = Parse(body);
    if (!absl::ParseTime(absl::RFC3339_full, body.at("time").get<std::string>(), &manifest.time, nullptr)) {
      return damaged;
    }
    for (const auto& [name, facts] : manifest.files) {
      if (!IsPlainName(name)) return damaged;
    }
    return manifest;
  } catch (const json::exception&) {
    return damaged;
  }
}

}  // namespace ham::server
