#include "server/metric_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace ham::server {
namespace {

// Values that are hard to write, and labels.
MetricFamilies HardFamilies() {
  MetricFamilies families;
  families.push_back(Scalar("plain", "A gauge.", 0));
  families.push_back(Scalar("count_total", "A counter.", 1e15, MetricType::Counter));
  families.push_back(Summary("time_seconds", "A \"summary\".", 123456789012, 0.1));
  MetricFamily values = Family("values", "Labels and values.");
  const double numbers[] = {0.1,
                            -0.0,
                            1.0 / 3,
                            1e300,
                            5e-324,
                            123456789.25,
                            -1e-7,
                            std::nan(""),
                            std::numeric_limits<double>::infinity(),
                            -std::numeric_limits<double>::infinity(),
                            1.7e308};
  for (const double number : numbers) {
    AddMetric(&values, {{"number", std::to_string(number)}, {"text", "\"a\\b\"\n\xC3\xA9"}, {"empty", ""}}, number);
  }
  families.push_back(std::move(values));
  families.push_back(Family("none", "Without a series."));
  return families;
}

TEST(MetricText, SaysWhatTheSerializerOfPrometheusCppSays) {
  const MetricFamilies families = HardFamilies();
  const std::vector<std::string> ours = absl::StrSplit(MetricText(families), '\n');
  const std::vector<std::string> theirs = absl::StrSplit(prometheus::TextSerializer().Serialize(families), '\n');
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    if (ours[i] == theirs[i]) continue;
    const size_t value = ours[i].rfind(' ');
    EXPECT_EQ(ours[i].substr(0, value), theirs[i].substr(0, theirs[i].rfind(' ')));
    double a = 0, b = 0;
    EXPECT_TRUE(absl::SimpleAtod(ours[i].substr(value + 1), &a)) << ours[i];
    EXPECT_TRUE(absl::SimpleAtod(theirs[i].substr(theirs[i].rfind(' ') + 1), &b)) << theirs[i];
    // Theirs has 16 digits.
    const bool same = a == b || (std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= 1e-15 * std::abs(a);
    EXPECT_TRUE(same) << ours[i] << "\n" << theirs[i];
  }
}

TEST(MetricText, WritesNumbersThatReadBackTheSame) {
  const MetricFamilies families = HardFamilies();
  const std::vector<std::string> lines = absl::StrSplit(MetricText(families), '\n');
  size_t at = 0;
  for (const prometheus::ClientMetric& metric : families[3].metric) {
    while (lines.at(at).rfind("values{", 0) != 0) ++at;
    double value = 0;
    ASSERT_TRUE(absl::SimpleAtod(lines[at].substr(lines[at].rfind(' ') + 1), &value)) << lines[at];
    EXPECT_TRUE(value == metric.gauge.value || std::isnan(metric.gauge.value)) << lines[at];
    ++at;
  }
  EXPECT_THAT(lines,
              ::testing::Contains("values{number=\"0.100000\",text=\"\\\"a\\\\b\\\"\\n\xC3\xA9\",empty=\"\"} 0.1"));
  EXPECT_THAT(lines, ::testing::Contains("plain 0"));
}

// That of prometheus-cpp writes the text of a help as it is.
TEST(MetricText, KeepsAHelpInItsLine) {
  EXPECT_EQ(MetricText({Scalar("a", "Of \\ two\nlines.", 1)}),
            "# HELP a Of \\\\ two\\nlines.\n# TYPE a gauge\na 1\n");
}

}  // namespace
}  // namespace ham::server
