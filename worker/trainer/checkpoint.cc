#include "worker/trainer/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "proto/strict_json.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

constexpr int kFormatVersion = 3;
constexpr char kModelFile[] = "model.safetensors";
constexpr char kStateFile[] = "state.safetensors";
constexpr char kManifestFile[] = "manifest.json";
constexpr uint64_t kMaxFileBytes = uint64_t{16} << 30;
constexpr uint64_t kMaxManifestBytes = 1 << 20;

absl::Status SystemError(const std::string& what, const std::string& path) {
  const std::string text = absl::StrCat(what, " ", path, " failed: ", std::strerror(errno));
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
    return absl::ResourceExhaustedError(absl::StrCat(text, "; free some space, or raise the quota or limit"));
  }
  return absl::UnavailableError(text);
}

absl::Status SyncDirectory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError("opening", path);
  const bool good = ::fsync(fd) == 0;
  absl::Status status = good ? absl::OkStatus() : SystemError("syncing", path);
  ::close(fd);
  return status;
}

absl::Status WriteAll(int fd, const std::string& bytes, const std::string& path) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError("writing", path);
    done += static_cast<size_t>(n);
  }
  return ::fsync(fd) == 0 ? absl::OkStatus() : SystemError("syncing", path);
}

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError("making", path);
  absl::Status status = WriteAll(fd, bytes, path);
  if (::close(fd) != 0 && status.ok()) status = SystemError("closing", path);
  return status;
}

// Refuses a file of more than `most` bytes before it is read.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, uint64_t most) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || std::filesystem::is_directory(path)) {
    return absl::NotFoundError(
        absl::StrCat(path, " cannot be opened: a checkpoint's files must lie beside its manifest"));
  }
  const std::streamoff size = file.tellg();
  if (size < 0 || static_cast<uint64_t>(size) > most) {
    return absl::DataLossError(absl::StrCat(path, " has ", size, " bytes, more than the ", most, " it may have"));
  }
  std::string bytes(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(bytes.data(), size)) return absl::UnavailableError(absl::StrCat("reading ", path, " failed"));
  return bytes;
}

absl::Status CheckScalars(const json& value) {
  if (value.is_structured()) {
    for (const json& item : value) {
      if (absl::Status status = CheckScalars(item); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (value.is_null() || (value.is_number_float() && !std::isfinite(value.get<double>()))) {
    return absl::InvalidArgumentError("a checkpoint's scalars must be finite numbers, strings or booleans");
  }
  return absl::OkStatus();
}

struct File {
  std::string name;
  std::string bytes;
};

json FileEntry(const File& file) {
  return {{"name", file.name}, {"sha256", Sha256Hex(file.bytes)}, {"bytes", file.bytes.size()}};
}

absl::StatusOr<std::array<File, 3>> Encode(const Checkpoint& checkpoint) {
  if (!checkpoint.scalars.is_object()) return absl::InvalidArgumentError("a checkpoint's scalars must be an object");
  if (absl::Status status = CheckScalars(checkpoint.scalars); !status.ok()) return status;
  absl::StatusOr<std::string> model = EncodeSafetensors(
      {checkpoint.model, NormalizationText(checkpoint.scalars.value("normalization", json::object()))});
  if (!model.ok()) return model.status();
  absl::StatusOr<std::string> state = EncodeSafetensors({checkpoint.state, {{kScalarsKey, checkpoint.scalars.dump()}}});
  if (!state.ok()) return state.status();
  std::array<File, 3> files{File{kModelFile, *std::move(model)}, File{kStateFile, *std::move(state)},
                            File{kManifestFile, ""}};
  const CheckpointInfo& info = checkpoint.info;
  const json manifest = {
      {"format_version", kFormatVersion},
      {"job_attempt", info.job_attempt},
      {"iteration", info.iteration},
      {"epoch", info.epoch},
      {"world_size", info.world_size},
      {"threads_per_rank", info.threads_per_rank},
      {"build_id", info.build_id},
      {"spec_digest", info.spec_digest},
      {"data_digest", info.data_digest},
      {"parameters_digest", checkpoint.parameters.defined() ? ParametersDigest(checkpoint.parameters) : ""},
      {"model", info.model},
      {"precision", info.precision},
      {"batch_norm", info.batch_norm},
      {"cpu_model", info.cpu_model},
      {"cpu_instructions", info.cpu_instructions},
      {"libtorch", info.libtorch},
      {"files", {FileEntry(files[0]), FileEntry(files[1])}}};
  files[2].bytes = manifest.dump(2) + "\n";
  return files;
}

// MoveIntoPlace for file systems that cannot exchange (NFS, Lustre): there is a moment without.
absl::Status MoveAsideAndIntoPlace(const std::string& temporary, const std::string& directory) {
  if (::rename(temporary.c_str(), directory.c_str()) == 0) return absl::OkStatus();
  if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR) return SystemError("renaming to", directory);
  const std::string aside = temporary + ".old";
  if (::rename(directory.c_str(), aside.c_str()) != 0) return SystemError("moving aside", directory);
  if (::rename(temporary.c_str(), directory.c_str()) != 0) {
    absl::Status status = SystemError("renaming to", directory);
    ::rename(aside.c_str(), directory.c_str());
    return status;
  }
  ::rename(aside.c_str(), temporary.c_str());  // as after an exchange
  return absl::OkStatus();
}

// Puts the finished directory in place; one of that name gets the temporary name in exchange.
absl::Status MoveIntoPlace(const std::string& temporary, const std::string& directory) {
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, directory.c_str(), RENAME_NOREPLACE) == 0) {
    return absl::OkStatus();
  }
  if (errno == EEXIST && ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, directory.c_str(), RENAME_EXCHANGE) == 0) {
    return absl::OkStatus();
  }
  if (errno == EINVAL || errno == ENOSYS) return MoveAsideAndIntoPlace(temporary, directory);
  return SystemError("renaming to", directory);
}

// Removes a directory at the end of a scope: the new one after an error, the old one after an exchange.
class RemoveOnExit {
 public:
  explicit RemoveOnExit(std::string path) : path_(std::move(path)) {}
  ~RemoveOnExit() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  RemoveOnExit(const RemoveOnExit&) = delete;
  RemoveOnExit& operator=(const RemoveOnExit&) = delete;

 private:
  const std::string path_;
};

// Reads the fields of a manifest; remembers the first that is wrong.
class ManifestReader {
 public:
  explicit ManifestReader(const json& object) : object_(object) {}

  int64_t Integer(const char* key, int64_t low, int64_t high) {
    const json* value = Find(key);
    if (value == nullptr) return 0;
    if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) ||
        value->get<int64_t>() < low || value->get<int64_t>() > high) {
      Refuse(key);
      return 0;
    }
    return value->get<int64_t>();
  }
  int Int(const char* key, int low) { return static_cast<int>(Integer(key, low, std::numeric_limits<int>::max())); }
  std::string String(const char* key) {
    const json* value = Find(key);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    Refuse(key);
    return "";
  }
  const json& Array(const char* key) {
    static const json kEmpty = json::array();
    const json* value = Find(key);
    if (value != nullptr && value->is_array()) return *value;
    Refuse(key);
    return kEmpty;
  }
  // The first wrong field, or one that nobody read; "" when all is well.
  std::string Problem() const {
    if (!problem_.empty()) return problem_;
    for (const auto& [key, value] : object_.items()) {
      if (!read_.contains(key)) return absl::StrCat("field \"", key, "\" is unknown");
    }
    return "";
  }

 private:
  const json* Find(const char* key) {
    read_.insert(key);
    if (object_.is_object() && object_.contains(key)) return &object_.at(key);
    Refuse(key);
    return nullptr;
  }
  void Refuse(const char* key) {
    if (problem_.empty()) problem_ = absl::StrCat("field \"", key, "\" is missing or wrong");
  }

  const json& object_;
  std::set<std::string> read_;
  std::string problem_;
};

struct Manifest {
  CheckpointInfo info;
  struct Entry {
    std::string name, sha256;
    int64_t bytes = 0;
  };
  std::array<Entry, 2> files;  // kModelFile, kStateFile
};

absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& path) {
  const auto damaged = [&path](const std::string& why) {
    return absl::DataLossError(absl::StrCat(path, " is damaged: ", why));
  };
  const absl::StatusOr<json> object = ParseStrictJson(text);
  if (!object.ok()) return damaged(std::string(object.status().message()));
  ManifestReader reader(*object);
  const int version = reader.Int("format_version", 1);
  if (version != 0 && version != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, " has format_version ", version, ", this program reads ",
                                                      kFormatVersion, ": use the release that wrote it"));
  }
  Manifest manifest;
  CheckpointInfo& info = manifest.info;
  info.job_attempt = reader.Int("job_attempt", 0);
  info.iteration = reader.Integer("iteration", 0, std::numeric_limits<int64_t>::max());
  info.epoch = reader.Int("epoch", 0);
  info.world_size = reader.Int("world_size", 1);
  info.threads_per_rank = reader.Int("threads_per_rank", 1);
  info.build_id = reader.String("build_id");
  info.spec_digest = reader.String("spec_digest");
  info.data_digest = reader.String("data_digest");
  info.parameters_digest = reader.String("parameters_digest");
  info.model = reader.String("model");
  info.precision = reader.String("precision");
  info.batch_norm = reader.String("batch_norm");
  info.cpu_model = reader.String("cpu_model");
  info.cpu_instructions = reader.String("cpu_instructions");
  info.libtorch = reader.String("libtorch");
  const json& files = reader.Array("files");
  if (const std::string problem = reader.Problem(); !problem.empty()) return damaged(problem);
  const std::array<const char*, 2> names{kModelFile, kStateFile};
  if (files.size() != names.size()) return damaged("field \"files\" must name two files");
  for (size_t i = 0; i < names.size(); ++i) {
    ManifestReader file(files[i]);
    Manifest::Entry& entry = manifest.files[i];
    entry = {file.String("name"), file.String("sha256"), file.Integer("bytes", 0, kMaxFileBytes)};
    if (const std::string problem = file.Problem(); !problem.empty()) return damaged("files: " + problem);
    if (entry.name != names[i]) return damaged(absl::StrCat("file ", i, " must be ", names[i]));
  }
  return manifest;
}

absl::StatusOr<Safetensors> LoadFile(const std::string& path, const Manifest::Entry& expected) {
  const absl::StatusOr<std::string> bytes = ReadWholeFile(path, static_cast<uint64_t>(expected.bytes));
  if (!bytes.ok()) return bytes.status();
  if (bytes->size() != static_cast<uint64_t>(expected.bytes)) {
    return absl::DataLossError(
        absl::StrCat(path, " has ", bytes->size(), " bytes, the manifest says ", expected.bytes));
  }
  if (Sha256Hex(*bytes) != expected.sha256) {
    return absl::DataLossError(absl::StrCat(path, " is damaged: its SHA-256 is not the manifest's"));
  }
  absl::StatusOr<Safetensors> content = DecodeSafetensors(*bytes);
  if (!content.ok()) return absl::Status(content.status().code(), absl::StrCat(path, ": ", content.status().message()));
  return content;
}

}  // namespace

std::vector<std::string> DifferencesOf(const CheckpointInfo& made, const CheckpointInfo& now) {
  std::vector<std::string> out;
  const auto compare = [&out](const char* what, const std::string& then, const std::string& here) {
    if (then != here) out.push_back(absl::StrCat(what, " ", then, ", this run has ", here));
  };
  if (made.world_size != now.world_size) {
    out.push_back(absl::StrCat(made.world_size, " ranks, this run has ", now.world_size));
  }
  if (made.threads_per_rank != now.threads_per_rank) {
    out.push_back(absl::StrCat(made.threads_per_rank, " threads a rank, this run has ", now.threads_per_rank));
  }
  compare("the model", made.model, now.model);
  compare("precision", made.precision, now.precision);
  compare("batch_norm", made.batch_norm, now.batch_norm);
  compare("the CPU", made.cpu_model, now.cpu_model);
  compare("CPU instructions", made.cpu_instructions, now.cpu_instructions);
  compare("LibTorch", made.libtorch, now.libtorch);
  compare("build", made.build_id, now.build_id);
  return out;
}

std::map<std::string, std::string> NormalizationText(const json& normalization) {
  std::map<std::string, std::string> out;
  for (const auto& [key, numbers] : normalization.items()) out[key] = numbers.dump();
  return out;
}

std::string ParametersDigest(const at::Tensor& flat) {
  return Sha256Hex({static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()});
}

absl::Status MakeDirectory(const std::string& directory) {
  std::error_code error;
  const bool made = std::filesystem::create_directory(directory, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", directory, ": ", error.message()));
  if (!made) return absl::OkStatus();
  const std::filesystem::path path(directory);
  return SyncDirectory(path.has_parent_path() ? path.parent_path().string() : ".");
}

absl::StatusOr<std::string> WriteCheckpoint(const std::string& directory, const Checkpoint& checkpoint) {
  const std::filesystem::path target(directory);
  if (!target.has_filename()) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint directory \"", directory, "\" must end with a name"));
  }
  try {
    const absl::StatusOr<std::array<File, 3>> files = Encode(checkpoint);
    if (!files.ok()) return files.status();
    std::string temporary = absl::StrCat(directory, ".new-XXXXXX");
    if (::mkdtemp(temporary.data()) == nullptr) return SystemError("making", temporary);
    const RemoveOnExit cleanup(temporary);
    if (::chmod(temporary.c_str(), 0755) != 0) return SystemError("setting the mode of", temporary);
    for (const File& file : *files) {
      if (absl::Status status = WriteFile(temporary + "/" + file.name, file.bytes); !status.ok()) return status;
    }
    const std::string parent = target.has_parent_path() ? target.parent_path().string() : ".";
    absl::Status status = SyncDirectory(temporary);
    if (status.ok()) status = MoveIntoPlace(temporary, directory);
    if (status.ok()) status = SyncDirectory(parent);
    if (!status.ok()) return status;
    return absl::StrCat(directory, "/", kManifestFile);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory to write ", directory));
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint cannot be stored: ", e.what()));
  }
}

absl::StatusOr<Checkpoint> LoadCheckpoint(const std::string& manifest_path) {
  try {
    const absl::StatusOr<std::string> text = ReadWholeFile(manifest_path, kMaxManifestBytes);
    if (!text.ok()) return text.status();
    const absl::StatusOr<Manifest> manifest = ParseManifest(*text, manifest_path);
    if (!manifest.ok()) return manifest.status();
    const std::filesystem::path directory = std::filesystem::path(manifest_path).parent_path();
    absl::StatusOr<Safetensors> model = LoadFile((directory / kModelFile).string(), manifest->files[0]);
    if (!model.ok()) return model.status();
    const std::string state_path = (directory / kStateFile).string();
    absl::StatusOr<Safetensors> state = LoadFile(state_path, manifest->files[1]);
    if (!state.ok()) return state.status();
    const auto scalars = state->metadata.find(kScalarsKey);
    absl::StatusOr<json> parsed = scalars == state->metadata.end() ? absl::InvalidArgumentError("it has no scalars")
                                                                   : ParseStrictJson(scalars->second);
    if (parsed.ok() && !parsed->is_object()) parsed = absl::InvalidArgumentError("its scalars are no object");
    if (!parsed.ok()) return absl::DataLossError(absl::StrCat(state_path, ": ", parsed.status().message()));
    return Checkpoint{manifest->info,    false, {}, std::move(model->tensors), std::move(state->tensors),
                      *std::move(parsed)};
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory to read ", manifest_path));
  } catch (const std::exception& e) {
    return absl::DataLossError(absl::StrCat(manifest_path, ": ", e.what()));
  }
}

}  // namespace ham::trainer
