#include "client/options.h"

#include <gtest/gtest.h>

namespace ham::client {
namespace {

CommandLine Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "hamctl");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), "/default.json");
}

TEST(ParseCommandLine, ReadsSubmit) {
  const CommandLine line = Parse({"submit", "a.yaml", "--set", "train.seed=1", "--set", "train.epochs=2", "--label",
                                  "team=a=b", "--watch", "-o", "json", "--request-id", "r"});
  ASSERT_FALSE(line.exit_code.has_value());
  const auto& submit = std::get<SubmitOptions>(line.command);
  EXPECT_EQ(submit.file, "a.yaml");
  EXPECT_EQ(submit.set, (std::vector<std::string>{"train.seed=1", "train.epochs=2"}));
  EXPECT_EQ(submit.labels.at("team"), "a=b");
  EXPECT_TRUE(submit.watch);
  EXPECT_EQ(submit.output, OutputFormat::kJson);
  EXPECT_EQ(submit.request_id, "r");
}

TEST(ParseCommandLine, TakesGlobalFlagsBeforeAndAfterTheSubcommand) {
  for (const auto& arguments : {std::vector<const char*>{"--timeout", "3s", "--config", "/c", "list"},
                                std::vector<const char*>{"list", "--timeout", "3s", "--config", "/c"}}) {
    const CommandLine line = Parse(arguments);
    ASSERT_FALSE(line.exit_code.has_value());
    EXPECT_EQ(line.global.timeout, absl::Seconds(3));
    EXPECT_EQ(line.global.config, "/c");
    EXPECT_TRUE(line.global.config_given);
  }
  EXPECT_EQ(Parse({"list"}).global.config, "/default.json");
  EXPECT_FALSE(Parse({"list"}).global.config_given);
}

TEST(ParseCommandLine, ReadsStatesInAnyCase) {
  const auto list = std::get<ListOptions>(Parse({"list", "--state", "running", "--state", "QUEUED"}).command);
  EXPECT_EQ(list.states, (std::vector<ham::v1::Job::State>{ham::v1::Job::RUNNING, ham::v1::Job::QUEUED}));
}

TEST(ParseCommandLine, ReadsTheOthers) {
  EXPECT_EQ(std::get<CancelOptions>(Parse({"cancel", "a", "b"}).command).jobs.size(), 2u);
  const auto logs = std::get<LogsOptions>(Parse({"logs", "a", "-f", "--rank", "1"}).command);
  EXPECT_TRUE(logs.follow);
  EXPECT_EQ(logs.rank, 1);
  EXPECT_EQ(std::get<WatchOptions>(Parse({"watch", "a", "--max-wait", "10m"}).command).max_wait, absl::Minutes(10));
  EXPECT_EQ(std::get<WatchOptions>(Parse({"watch", "a"}).command).max_wait, absl::InfiniteDuration());
  EXPECT_EQ(std::get<LoginOptions>(Parse({"login", "--bootstrap", "f", "--endpoint", "h:1"}).command).endpoints.size(),
            1u);
  EXPECT_TRUE(std::holds_alternative<WorkersOptions>(Parse({"workers"}).command));
  EXPECT_TRUE(std::holds_alternative<VersionOptions>(Parse({"version"}).command));
}

TEST(ParseCommandLine, ReadsEval) {
  const auto get = std::get<EvalGetOptions>(Parse({"eval", "get", "j1", "--record", "r.json"}).command);
  EXPECT_EQ(get.job, "j1");
  EXPECT_EQ(get.record, "r.json");
  EXPECT_FALSE(get.signed_by.has_value());
  EXPECT_EQ(std::get<SubmitOptions>(Parse({"submit", "e.yaml", "--weights", "w"}).command).weights, "w");
  const auto show = std::get<EvalShowOptions>(Parse({"eval", "show", "r.json", "-o", "json"}).command);
  EXPECT_EQ(show.record, "r.json");
  EXPECT_EQ(show.output, OutputFormat::kJson);
  EXPECT_FALSE(show.signed_by.has_value());
  const auto diff = std::get<EvalDiffOptions>(Parse({"eval", "diff", "a", "b", "--also-a", "a2", "a3", "--also-b", "b2",
                                                     "--validation-class", "cat", "--signed-by", "KEY="})
                                                  .command);
  EXPECT_EQ(diff.a, "a");
  EXPECT_EQ(diff.b, "b");
  EXPECT_EQ(diff.also_a, (std::vector<std::string>{"a2", "a3"}));
  EXPECT_EQ(diff.also_b, (std::vector<std::string>{"b2"}));
  EXPECT_EQ(diff.validation_class, "cat");
  EXPECT_EQ(diff.signed_by, "KEY=");
  const auto facts = std::get<EvalExportOptions>(
      Parse({"eval", "export", "r", "--robustbench", "--name", "Title", "--authors", "A, B", "--link", "l", "--venue",
             "v", "--architecture", "ResNet-18", "--additional-data"})
          .command);
  EXPECT_EQ(facts.record, "r");
  EXPECT_EQ(facts.name, "Title");
  EXPECT_EQ(facts.authors, "A, B");
  EXPECT_EQ(facts.link, "l");
  EXPECT_EQ(facts.venue, "v");
  EXPECT_EQ(facts.architecture, "ResNet-18");
  EXPECT_TRUE(facts.additional_data);
}

TEST(ParseCommandLine, RefusesWhatItDoesNotKnow) {
  for (const auto& arguments : std::vector<std::vector<const char*>>{
           {},
           {"nonsense"},
           {"list", "--nonsense"},
           {"list", "--state", "SLEEPING"},
           {"list", "--state", "STATE_UNSPECIFIED"},
           {"list", "--limit", "0"},
           {"list", "-o", "xml"},
           {"get"},
           {"submit"},
           {"submit", "a", "--set", "novalue"},
           {"submit", "a", "--label", "=x"},
           {"submit", "a", "--dry-run", "--watch"},
           {"watch", "a", "--max-wait", "0s"},
           {"watch", "a", "--max-wait", "10"},
           {"logs", "a", "--rank", "-1"},
           {"login"},
           {"eval"},
           {"eval", "show"},
           {"eval", "show", "r", "-o", "yaml"},
           {"eval", "diff", "a"},
           {"eval", "export", "r"},
       }) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(Parse(arguments).exit_code, 2) << (arguments.empty() ? "" : arguments.back());
    EXPECT_FALSE(testing::internal::GetCapturedStderr().empty());
  }
}

}  // namespace
}  // namespace ham::client
