#include "worker/trainer/data/npy_header.h"

#include <charconv>

#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

constexpr std::string_view kNpyMagic = "\x93NUMPY";
constexpr size_t kMaxDimensions = 8;

absl::Status BadHeader(const std::string& what) { return absl::DataLossError(what); }

// Reads the dictionary of a header, written as Python would. Every function skips white space first.
class HeaderText {
 public:
  explicit HeaderText(std::string_view text) : rest_(text) {}

  // Whether `word` is next; passes it if so.
  bool Take(std::string_view word) {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
    if (rest_.substr(0, word.size()) != word) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  // 'text' or "text", without escapes.
  bool ReadText(std::string_view* text) {
    const char quote = Take("'") ? '\'' : '"';
    if (quote == '"' && !Take("\"")) return false;
    const size_t end = rest_.find(quote);
    if (end == std::string_view::npos) return false;
    *text = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return text->find('\\') == std::string_view::npos;
  }
  bool ReadNumber(uint64_t* number) {
    Take("");
    const auto [end, code] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), *number);
    if (code != std::errc()) return false;
    rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return true;
  }
  // (), (3,) or (3, 4)
  bool ReadShape(std::vector<uint64_t>* shape) {
    if (!Take("(")) return false;
    while (!Take(")")) {
      if (shape->size() == kMaxDimensions || !ReadNumber(&shape->emplace_back())) return false;
      if (!Take(",")) return shape->size() > 1 && Take(")");
    }
    return true;
  }
  bool AtEnd() {
    Take("");
    return rest_.empty();
  }

 private:
  std::string_view rest_;
};

// One entry of the dictionary, its key read.
absl::Status ReadEntry(std::string_view key, HeaderText* text, NpyHeader* out) {
  std::string_view type;
  if (key == "descr") {
    if (text->Take("[")) return BadHeader("its elements are records, not plain numbers");
    if (!text->ReadText(&type)) return BadHeader("the type of its elements cannot be read");
    if (type.find('O') != std::string_view::npos) {
      return BadHeader("its elements are Python objects (a pickle), which are never read");
    }
    out->type = std::string(type);
    return absl::OkStatus();
  }
  if (key == "fortran_order") {
    if (text->Take("False")) return absl::OkStatus();
    return BadHeader(text->Take("True") ? "it is in Fortran order; store numpy.ascontiguousarray of it"
                                        : "its order of elements cannot be read");
  }
  if (key != "shape") return BadHeader("its header has an entry that is not NumPy's");
  return text->ReadShape(&out->shape)
             ? absl::OkStatus()
             : BadHeader(absl::StrCat("its shape cannot be read, or has more than ", kMaxDimensions, " dimensions"));
}

// Where the text of the header starts and ends.
absl::Status FindText(std::string_view start, size_t* begin, size_t* end) {
  const size_t fixed = kNpyMagic.size() + 2;
  if (start.size() < fixed || start.substr(0, kNpyMagic.size()) != kNpyMagic) {
    return BadHeader("it does not start as a .npy file does");
  }
  const int version = static_cast<uint8_t>(start[kNpyMagic.size()]);
  if (version < 1 || version > 3 || start[kNpyMagic.size() + 1] != 0) {
    return BadHeader(absl::StrCat("it is of version ", version, ".",
                                  static_cast<int>(static_cast<uint8_t>(start[kNpyMagic.size() + 1])),
                                  " of the .npy format; 1.0 to 3.0 are known"));
  }
  *begin = fixed + (version == 1 ? 2 : 4);
  if (start.size() < *begin) return BadHeader("it ends within its header");
  uint64_t length = 0;
  for (size_t i = *begin; i > fixed; --i) length = length << 8 | static_cast<uint8_t>(start[i - 1]);
  if (length > kMaxNpyHeaderBytes - *begin) {
    return BadHeader(absl::StrCat("its header has ", length, " bytes; known ones have at most ", kMaxNpyHeaderBytes));
  }
  *end = *begin + length;
  return *end <= start.size() ? absl::OkStatus() : BadHeader("it ends within its header");
}

}  // namespace

absl::StatusOr<NpyHeader> ParseNpyHeader(std::string_view start) {
  size_t begin = 0, end = 0;
  if (absl::Status status = FindText(start, &begin, &end); !status.ok()) return status;
  NpyHeader out;
  out.bytes = end;
  HeaderText text(start.substr(begin, end - begin));
  if (!text.Take("{")) return BadHeader("its header is no dictionary");
  std::vector<std::string_view> keys;
  while (!text.Take("}")) {
    std::string_view key;
    if (!text.ReadText(&key) || !text.Take(":")) return BadHeader("its header cannot be read");
    for (const std::string_view other : keys) {
      if (key == other) return BadHeader(absl::StrCat("its header has two entries \"", std::string(key), "\""));
    }
    if (absl::Status status = ReadEntry(key, &text, &out); !status.ok()) return status;
    keys.push_back(key);
    if (!text.Take(",")) {
      if (text.Take("}")) break;
      return BadHeader("its header cannot be read");
    }
  }
  if (keys.size() != 3 || !text.AtEnd()) return BadHeader("its header is not descr, fortran_order and shape");
  return out;
}

}  // namespace ham::trainer
