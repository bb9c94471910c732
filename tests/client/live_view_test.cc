#include "client/live_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "client/text.h"

namespace ham::client {
namespace {

using testing::HasSubstr;
using testing::Not;

JobProgress Running(int classes) {
  JobProgress progress;
  progress.job.set_name("projects/default/jobs/j1");
  progress.job.set_state(ham::v1::Job::RUNNING);
  progress.job.mutable_spec()->mutable_train()->set_epochs(12);
  progress.attempt = 1;
  progress.epoch = 6;
  progress.iteration = 50;
  progress.train.emplace().set_total_iterations(100);
  ham::v1::EvaluationMetrics& evaluation = progress.evaluation.emplace();
  evaluation.set_split("validation");
  evaluation.set_rows(1200);
  ham::v1::SuiteMetrics* suite = evaluation.add_suites();
  suite->set_name("pgd-20");
  for (int i = 0; i < classes; ++i) {
    evaluation.add_class_names(absl::StrCat("class-", i));
    suite->add_per_class_robust_accuracy(i == 3 ? 0.01 : 0.5 + 0.001 * i);
  }
  suite->set_worst_class(3);
  suite->set_worst_class_name("class-3");
  return progress;
}

std::string Joined(const std::vector<ViewLine>& lines) {
  std::string text;
  for (const ViewLine& line : lines) absl::StrAppend(&text, line.text, "\n");
  return text;
}

TEST(RenderLiveView, DrawsOneBarAClassAndMarksTheWorst) {
  const std::vector<ViewLine> lines = RenderLiveView(Running(10), Screen{}, absl::UnixEpoch());
  int bars = 0, worst = 0;
  for (const ViewLine& line : lines) {
    bars += line.text.rfind("  class-", 0) == 0;
    if (line.style != ViewLine::Style::kWorst) continue;
    ++worst;
    EXPECT_THAT(line.text, HasSubstr("class-3"));
    EXPECT_THAT(line.text, HasSubstr("< worst"));
  }
  EXPECT_EQ(bars, 10);
  EXPECT_EQ(worst, 1);
  EXPECT_THAT(Joined(lines), HasSubstr("epoch 6/12"));
  EXPECT_THAT(Joined(lines), HasSubstr("1200 validation images: clean"));
  EXPECT_THAT(Joined(lines), HasSubstr(" 50 %"));
}

TEST(RenderLiveView, SaysThatTheLastEvaluationIsOnTheTestImages) {
  JobProgress progress = Running(10);
  progress.evaluation_epoch = 12;
  progress.evaluation->set_split("test");
  progress.evaluation->set_rows(2000);
  EXPECT_THAT(Joined(RenderLiveView(progress, Screen{}, absl::UnixEpoch())),
              HasSubstr("after epoch 12, 2000 test images: clean"));
}

JobProgress Evaluating() {
  JobProgress progress = Running(4);
  progress.train.reset();
  ham::v1::EvaluateSpec* evaluate = progress.job.mutable_spec()->mutable_evaluate();
  evaluate->mutable_model()->set_name("cnn-16-32");
  evaluate->mutable_data()->set_name("svhn");
  evaluate->mutable_suite()->set_name("autoattack");
  evaluate->mutable_resources()->set_world_size(3);
  evaluate->mutable_resources()->set_device("cpu");
  ham::v1::EvaluationMetrics& evaluation = *progress.evaluation;
  evaluation.set_split("test");
  evaluation.set_clean_accuracy(0.9);
  evaluation.mutable_suites(0)->set_robust_accuracy(0.613);
  evaluation.mutable_suites(0)->set_worst_class_robust_accuracy(0.01);
  evaluation.mutable_progress()->set_stage("apgd-t");
  evaluation.mutable_progress()->set_rows_left(812);
  evaluation.mutable_progress()->set_ranks(2);
  return progress;
}

TEST(RenderLiveView, ShowsHowFarAnEvaluationIs) {
  JobProgress progress = Evaluating();
  Screen screen;
  screen.columns = 120;
  const std::string text = Joined(RenderLiveView(progress, screen, absl::UnixEpoch()));
  EXPECT_THAT(text, HasSubstr("j1  RUNNING  evaluation of cnn-16-32 on svhn, autoattack, 3 x cpu"));
  EXPECT_THAT(text, HasSubstr("1200 test images: clean <= 90.0 %\n"));
  EXPECT_THAT(text, HasSubstr("apgd-t  812 rows left  robust <= 61.3 %, worst class <= 1.0 % (class-3)  2 ranks\n"));
  EXPECT_THAT(text, HasSubstr("upper bounds of robust accuracy by class, pgd-20:"));
  EXPECT_THAT(text, Not(HasSubstr("epoch")));
  progress.evaluation->clear_progress();
  const std::string done = Joined(RenderLiveView(progress, screen, absl::UnixEpoch()));
  EXPECT_THAT(done, HasSubstr("\n1200 test images: clean 90.0 %\npgd-20: average 61.3 %, worst class class-3 1.0 %\n"));
  EXPECT_THAT(done, HasSubstr("\nrobust accuracy by class, pgd-20:"));
}

TEST(RenderLiveView, FitsAnyScreen) {
  for (const int classes : {0, 1, 10, 100, 1000}) {
    for (const size_t columns : {1u, 10u, 40u, 80u, 300u}) {
      for (const size_t rows : {2u, 5u, 24u, 60u}) {
        Screen screen;
        screen.columns = columns;
        screen.rows = rows;
        JobProgress progress = Running(std::max(classes, 4));
        if (classes == 0) progress.evaluation.reset();
        progress.job.set_state_message(std::string(1000, 'x') + "\n\033[2J");
        const std::vector<ViewLine> lines = RenderLiveView(progress, screen, absl::UnixEpoch());
        EXPECT_LT(lines.size(), rows);
        for (const ViewLine& line : lines) {
          EXPECT_LT(Width(line.text), columns);
          EXPECT_EQ(line.text.find_first_of("\n\t\033"), std::string::npos);
        }
      }
    }
  }
}

TEST(RenderLiveView, ShowsTheUtilizationWhereThereIsRoom) {
  JobProgress progress = Running(10);
  progress.train->set_model_flops_utilization(0.375);
  Screen screen;
  screen.columns = 120;
  EXPECT_THAT(Joined(RenderLiveView(progress, screen, absl::UnixEpoch())), HasSubstr("  MFU 37.5 %"));
  screen.columns = 80;
  EXPECT_THAT(Joined(RenderLiveView(progress, screen, absl::UnixEpoch())), Not(HasSubstr("MFU")));
  screen.columns = 120;
  progress.train->set_model_flops_utilization(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(Joined(RenderLiveView(progress, screen, absl::UnixEpoch())), Not(HasSubstr("MFU")));
}

TEST(RenderLiveView, ShowsTheLowestOfTooManyClasses) {
  const std::string text = Joined(RenderLiveView(Running(100), Screen{}, absl::UnixEpoch()));
  EXPECT_THAT(text, HasSubstr("class-3 "));
  EXPECT_THAT(text, HasSubstr("better classes"));
  EXPECT_THAT(text, Not(HasSubstr("class-99")));
}

TEST(RenderLiveView, SaysWhyAJobDoesNotRun) {
  JobProgress progress;
  progress.job.set_state(ham::v1::Job::QUEUED);
  progress.job.set_state_message("no worker has fashion-mnist");
  EXPECT_THAT(Joined(RenderLiveView(progress, Screen{}, absl::UnixEpoch())), HasSubstr("no worker has fashion-mnist"));
}

TEST(RenderLiveView, UsesPlainCharactersWhereTheLocaleAsksForThem) {
  const std::string text = Joined(RenderLiveView(Running(10), Screen{}, absl::UnixEpoch()));
  for (const char c : text) EXPECT_GE(c, 0);
}

TEST(RenderLiveView, ShowsAnEmptyBarForAClassWithoutRows) {
  JobProgress progress = Running(10);
  progress.evaluation->mutable_suites(0)->set_per_class_robust_accuracy(5, std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(Joined(RenderLiveView(progress, Screen{}, absl::UnixEpoch())),
              testing::ContainsRegex("class-5  \\.+ +-"));
}

TEST(BlockPrinter, GoesBackOverWhatItDrew) {
  Screen screen;
  screen.color = true;
  BlockPrinter printer;
  EXPECT_EQ(printer.Draw({}, {{"a"}, {"b", ViewLine::Style::kWorst}}, screen), "\r\033[Ja\n\033[1;31mb\033[0m\n");
  EXPECT_EQ(printer.Draw({"kept"}, {{"c"}}, screen), "\033[2A\r\033[Jkept\nc\n");
  EXPECT_EQ(printer.Draw({}, {}, screen), "\033[1A\r\033[J");
}

TEST(BlockPrinter, CountsTheRowsThatLinesTakeInANarrowerWindow) {
  Screen screen;
  BlockPrinter printer;
  printer.Draw({}, {{std::string(79, 'a')}, {""}}, screen);
  screen.columns = 20;
  EXPECT_EQ(printer.Draw({}, {}, screen), "\033[5A\r\033[J");
}

}  // namespace
}  // namespace ham::client
