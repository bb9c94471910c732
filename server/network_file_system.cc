#include "server/network_file_system.h"

#include <sys/vfs.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ham::server {

std::optional<std::string> NetworkFileSystemName(uint32_t type) {
  switch (type) {  // statfs(2)
    case 0x6969:
      return "NFS";
    case 0x517b:
    case 0xff534d42:
    case 0xfe534d42:
      return "SMB";
    case 0x65735546:
      return "FUSE";
    case 0x01021997:
      return "9P";
    case 0x5346414f:
      return "AFS";
    case 0x00c36400:
      return "Ceph";
    case 0x0bd00bd0:
      return "Lustre";
    case 0x47504653:
      return "GPFS";
    case 0x01161970:
      return "GFS2";
    case 0x7461636f:
      return "OCFS2";
    default:
      return std::nullopt;
  }
}

absl::Status RefuseNetworkFileSystem(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  struct statfs info;
  if (::statfs(folder.c_str(), &info) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot look at ", folder, ": ", strerror(errno)));
  }
  const std::optional<std::string> name = NetworkFileSystemName(static_cast<uint32_t>(info.f_type));
  if (!name) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(folder, " lies on a ", *name,
                   " file system, whose locks and syncs are not reliable: use a --state-dir on a "
                   "local disk"));
}

}  // namespace ham::server
