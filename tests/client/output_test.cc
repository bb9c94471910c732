#include "client/output.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include "ham/v1/job_service.pb.h"

namespace ham::client {
namespace {

ham::v1::Job MakeJob() {
  ham::v1::Job job;
  job.set_name("projects/default/jobs/j1");
  job.set_state(ham::v1::Job::QUEUED);
  job.set_state_message("waits: \"two\" slots # not a comment");
  (*job.mutable_labels())["yes"] = "0123";
  auto* train = job.mutable_spec()->mutable_train();
  train->set_seed(18446744073709551615u);
  train->mutable_attack()->set_epsilon(8.0 / 255.0);
  train->mutable_optimizer()->add_milestones(3);
  train->mutable_evaluation()->add_suites()->set_name("pgd-20");
  return job;
}

TEST(Serialize, PrintsZeroesAndProtoNamesInJson) {
  const std::string json = Serialize(MakeJob(), OutputFormat::kJson);
  EXPECT_NE(json.find("\"attempt\": 0"), std::string::npos) << json;
  EXPECT_NE(json.find("\"state_message\""), std::string::npos) << json;
  EXPECT_EQ(json.back(), '\n');
}

TEST(Serialize, PutsAStreamedMessageOnOneLine) {
  const std::string json = Serialize(MakeJob(), OutputFormat::kJson, /*stream=*/true);
  EXPECT_EQ(json.find('\n'), json.size() - 1);
}

TEST(Serialize, WritesYamlThatReadsBackTheSame) {
  const std::string text = Serialize(MakeJob(), OutputFormat::kYaml);
  const YAML::Node yaml = YAML::Load(text);
  EXPECT_EQ(yaml["name"].as<std::string>(), "projects/default/jobs/j1") << text;
  EXPECT_EQ(yaml["state_message"].as<std::string>(), MakeJob().state_message()) << text;
  EXPECT_EQ(yaml["labels"]["yes"].as<std::string>(), "0123") << text;
  EXPECT_EQ(yaml["spec"]["train"]["seed"].as<uint64_t>(), 18446744073709551615u) << text;
  EXPECT_EQ(yaml["spec"]["train"]["attack"]["epsilon"].as<double>(), 8.0 / 255.0) << text;
  EXPECT_EQ(yaml["spec"]["train"]["optimizer"]["milestones"][0].as<int>(), 3) << text;
  EXPECT_EQ(yaml["spec"]["train"]["evaluation"]["suites"][0]["name"].as<std::string>(), "pgd-20") << text;
  // A label that looks like a number or a boolean stays text for any YAML reader.
  EXPECT_NE(text.find("\"yes\": \"0123\""), std::string::npos) << text;
}

TEST(Serialize, KeepsTextAsTextAndHarmless) {
  ham::v1::Job job;
  for (const char* value : {"<<", "0x1F", "0b101", "true", "2026-01-01T00:00:00Z", "a\x7F",
                            "\xC2\x9B"
                            "31m"}) {
    (*job.mutable_labels())[value] = value;
  }
  const std::string json = Serialize(job, OutputFormat::kJson);
  const std::string yaml = Serialize(job, OutputFormat::kYaml);
  for (const std::string& text : {json, yaml}) {
    EXPECT_EQ(text.find('\x7F'), std::string::npos);
    EXPECT_EQ(text.find("\xC2\x9B"), std::string::npos);
  }
  for (const auto& [key, value] : job.labels()) {
    EXPECT_EQ(YAML::Load(yaml)["labels"][key].as<std::string>(), value);
    if (key.find_first_of("\x7F\xC2") == std::string::npos) {
      EXPECT_NE(yaml.find("\"" + key + "\": \"" + value + "\""), std::string::npos) << yaml;
    }
  }
}

TEST(Serialize, SeparatesStreamedYamlDocuments) {
  const std::string two =
      Serialize(MakeJob(), OutputFormat::kYaml, true) + Serialize(MakeJob(), OutputFormat::kYaml, true);
  EXPECT_EQ(YAML::LoadAll(two).size(), 2u);
}

}  // namespace
}  // namespace ham::client
