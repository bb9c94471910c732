#include "worker/agent/spool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

constexpr size_t kHeaderBytes = 4;

absl::Status Failed(const std::string& what, int error) {
  const std::string text = absl::StrCat("the spool cannot be ", what, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT)
    return absl::ResourceExhaustedError(text + "; make room in the state directory");
  return absl::UnavailableError(text);
}

bool ReadFully(int fd, size_t at, char* data, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::pread(fd, data + done, size - done, static_cast<off_t>(at + done));
    if (n == 0 || (n < 0 && errno != EINTR)) return false;
    if (n > 0) done += static_cast<size_t>(n);
  }
  return true;
}

absl::Status WriteFully(int fd, size_t at, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(at + done));
    if (n < 0 && errno != EINTR) return Failed("written", errno);
    if (n > 0) done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(const std::string& folder, size_t limit, size_t segment_bytes) {
  if (::mkdir(folder.c_str(), 0700) != 0) return Failed("made", errno);
  std::unique_ptr<Spool> spool(new Spool(folder, limit, segment_bytes));
  absl::MutexLock lock(&spool->mutex_);
  if (absl::Status status = spool->AddSegment(); !status.ok()) return status;
  return spool;
}

Spool::~Spool() {
  for (const Segment& segment : segments_) ::close(segment.fd);
}

absl::Status Spool::AddSegment() {
  Segment segment;
  segment.path = absl::StrCat(folder_, "/", next_file_++);
  segment.fd = ::open(segment.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (segment.fd < 0) return Failed("written", errno);
  segments_.push_back(std::move(segment));
  return absl::OkStatus();
}

absl::Status Spool::Write(Segment* segment, const ham::v1::SpooledRecord& record) {
  std::string bytes(kHeaderBytes, '\0');
  record.AppendToString(&bytes);
  const size_t size = bytes.size() - kHeaderBytes;
  for (size_t i = 0; i < kHeaderBytes; ++i) bytes[i] = static_cast<char>(size >> (8 * i));
  if (absl::Status status = WriteFully(segment->fd, segment->bytes, bytes); !status.ok()) {
    return status;  // what was written of it lies beyond segment->bytes and will be written over
  }
  segment->bytes += bytes.size();
  if (record.has_log_text()) segment->log_bytes += bytes.size();
  segment->last_sequence = record.spool_sequence();
  return absl::OkStatus();
}

absl::StatusOr<ham::v1::SpooledRecord> Spool::Read(const Segment& segment, size_t at, size_t* next) {
  const absl::Status damaged = absl::DataLossError(absl::StrCat(segment.path, " is damaged at byte ", at));
  char header[kHeaderBytes];
  if (at + kHeaderBytes > segment.bytes || !ReadFully(segment.fd, at, header, kHeaderBytes)) return damaged;
  size_t size = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) size |= size_t{static_cast<unsigned char>(header[i])} << (8 * i);
  if (size > segment.bytes - at - kHeaderBytes) return damaged;
  std::string bytes(size, '\0');
  ham::v1::SpooledRecord record;
  if (!ReadFully(segment.fd, at + kHeaderBytes, bytes.data(), size) || !record.ParseFromString(bytes)) return damaged;
  *next = at + kHeaderBytes + size;
  return record;
}

absl::Status Spool::Append(ham::v1::SpooledRecord record) {
  absl::MutexLock lock(&mutex_);
  if (segments_.back().bytes >= segment_bytes_) {
    if (absl::Status status = AddSegment(); !status.ok()) return status;
  }
  record.set_spool_sequence(next_sequence_);
  // Room first: once the record is written there is no error to return.
  while (bytes_ + kHeaderBytes + record.ByteSizeLong() > limit_) {
    const size_t held = bytes_;
    if (absl::Status status = Shrink(); !status.ok()) return status;
    if (bytes_ >= held) break;  // no text is left
  }
  const size_t before = segments_.back().bytes;
  if (absl::Status status = Write(&segments_.back(), record); !status.ok()) return status;
  ++next_sequence_;
  bytes_ += segments_.back().bytes - before;
  return absl::OkStatus();
}

absl::Status Spool::Shrink() {
  const auto oldest =
      std::find_if(segments_.begin(), segments_.end(), [](const Segment& s) { return s.log_bytes > 0; });
  if (oldest == segments_.end()) return absl::OkStatus();
  if (oldest->path == segments_.back().path) {
    const std::string path = oldest->path;
    if (absl::Status status = AddSegment(); !status.ok()) return status;
    return DropLogs(
        &*std::find_if(segments_.begin(), segments_.end(), [&](const Segment& s) { return s.path == path; }));
  }
  return DropLogs(&*oldest);
}

absl::Status Spool::DropLogs(Segment* segment) {
  Segment fresh;
  fresh.path = absl::StrCat(folder_, "/", next_file_++);
  fresh.fd = ::open(fresh.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fresh.fd < 0) return Failed("written", errno);
  absl::Status status;
  ham::v1::SpooledRecord gap;  // has the sequence of the last record that went
  size_t dropped = 0;
  const auto close_gap = [&]() -> absl::Status {
    if (std::exchange(dropped, 0) == 0) return absl::OkStatus();
    return Write(&fresh, gap);
  };
  for (size_t at = segment->read, next = 0; at < segment->bytes && status.ok(); at = next) {
    absl::StatusOr<ham::v1::SpooledRecord> record = Read(*segment, at, &next);
    if (!record.ok()) {
      status = record.status();
    } else if (record->has_log_text()) {
      dropped += record->log_text().size();
      gap = *std::move(record);
      gap.set_log_text(absl::StrCat("[", dropped, " bytes of log text were dropped here: the spool was full]\n"));
    } else {
      status = close_gap();
      if (status.ok()) status = Write(&fresh, *record);
    }
  }
  if (status.ok()) status = close_gap();
  if (!status.ok()) {
    ::close(fresh.fd);
    ::unlink(fresh.path.c_str());
    return status;
  }
  fresh.log_bytes = 0;  // marks stay
  bytes_ = bytes_ - segment->bytes + fresh.bytes;
  ::close(segment->fd);
  ::unlink(segment->path.c_str());
  *segment = std::move(fresh);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ham::v1::SpooledRecord>> Spool::Pending(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  std::vector<ham::v1::SpooledRecord> records;
  size_t total = 0;
  for (const Segment& segment : segments_) {
    for (size_t at = segment.read, next = 0; at < segment.bytes; at = next) {
      absl::StatusOr<ham::v1::SpooledRecord> record = Read(segment, at, &next);
      if (!record.ok()) return record.status();
      total += next - at;
      if (!records.empty() && total > bytes) return records;
      records.push_back(*std::move(record));
    }
  }
  return records;
}

void Spool::RemoveFront() {
  bytes_ -= segments_.front().bytes;
  ::close(segments_.front().fd);
  ::unlink(segments_.front().path.c_str());
  segments_.pop_front();
}

void Spool::Acknowledge(int64_t sequence) {
  absl::MutexLock lock(&mutex_);
  acknowledged_ = std::max(acknowledged_, std::min(sequence, next_sequence_ - 1));
  while (segments_.size() > 1 && segments_.front().last_sequence <= acknowledged_) RemoveFront();
  Segment& front = segments_.front();
  // Without a look at the file, which may be the damaged one that this is to get rid of.
  if (front.last_sequence <= acknowledged_) front.read = front.bytes;
  while (front.read < front.bytes) {
    size_t next = 0;
    const absl::StatusOr<ham::v1::SpooledRecord> record = Read(front, front.read, &next);
    if (!record.ok() || record->spool_sequence() > acknowledged_) return;
    front.read = next;
  }
}

bool Spool::empty() const {
  absl::MutexLock lock(&mutex_);
  return acknowledged_ + 1 == next_sequence_;
}

size_t Spool::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace ham::agent
