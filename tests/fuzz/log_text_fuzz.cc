// What a trainer prints: any bytes, in any pieces, on both sides of the wire.
#include "google/rpc/status.pb.h"
#include "server/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "worker/agent/log_text.h"

namespace ham::fuzz {
namespace {

void CheckPieces(const std::vector<std::string>& pieces, size_t limit, std::string* all) {
  for (const std::string& piece : pieces) {
    Check(piece.size() <= limit, "a piece keeps to the limit");
    google::rpc::Status probe;  // any message with text
    probe.set_message(piece);
    Check(google::rpc::Status().ParseFromString(probe.SerializeAsString()), "a piece is UTF-8");
    *all += piece;
  }
}

}  // namespace

std::vector<std::string> Seeds() {
  return {"\x05one line\nand another\n", "\x10\xF0\x9F\x98\x80 caf\xC3\xA9 \xE2\x82",
          "\x01\xED\xA0\x80\xC0\xAF\xFF\n\n"};
}

void TryInput(const std::string& input) {
  if (input.empty()) return;
  const size_t first = static_cast<unsigned char>(input[0]);
  const std::string bytes = input.substr(1);
  const size_t limit = 16 + first % 32;
  agent::LogText whole(limit), split(limit);
  std::string at_once, in_pieces;
  CheckPieces(whole.Add(bytes), limit, &at_once);
  CheckPieces(whole.Finish(), limit, &at_once);
  const size_t step = 1 + first / 32;
  for (size_t at = 0; at < bytes.size(); at += step) CheckPieces(split.Add(bytes.substr(at, step)), limit, &in_pieces);
  CheckPieces(split.Finish(), limit, &in_pieces);
  Check(at_once == in_pieces, "how the bytes arrive changes nothing");
  std::string resplit;
  CheckPieces(server::SplitUtf8(at_once, limit), limit, &resplit);
  Check(resplit == at_once, "the coordinator keeps text that is UTF-8");
  std::string raw;
  CheckPieces(server::SplitUtf8(bytes, limit), limit, &raw);
}

}  // namespace ham::fuzz
