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
  explicit BlockPrinter(const Screen& screen) : screen_(screen) {}

  // Bytes that print `above` for good and `block` below it.
  std::string Draw(const std::vector<std::string>& above, const std::vector<ViewLine>& block);

 private:
  const Screen screen_;
  size_t drawn_ = 0;
};

}  // namespace ham::client
