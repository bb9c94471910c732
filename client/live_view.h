// The live view of a job in a terminal: progress, and one bar a class with the worst marked.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/job_progress.h"
#include "client/screen.h"

namespace ham::client {

struct ViewLine {
  enum class Style { kPlain, kBold, kDim, kWorst };
  std::string text;  // fits into Screen.columns - 1
  Style style = Style::kPlain;
};

// At most screen.rows - 1 lines; of more classes than fit, those with the lowest accuracy. Pure.
std::vector<ViewLine> RenderLiveView(const JobProgress& progress, const Screen& screen, absl::Time now);

// Draws blocks of lines on a terminal, each over the one before. Not thread-safe.
class BlockPrinter {
 public:
  // Bytes that print `above` for good and `block` below it. `screen` is as it is now: in a narrower window the lines
  // drawn before take more rows.
  std::string Draw(const std::vector<std::string>& above, const std::vector<ViewLine>& block, const Screen& screen);

 private:
  std::vector<size_t> drawn_;  // widths of the block's lines
};

}  // namespace ham::client
