#include "proto/evaluation/record_file.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "proto/strict_json.h"
#include "proto/utf8.h"
#include "tests/support/made_record.h"
#include "tests/support/temporary_directory.h"

namespace ham {
namespace {

using nlohmann::json;
using testing::MadeInputs;
using testing::MadeRecord;

class RecordFileTest : public ::testing::Test {
 protected:
  SigningKey Key(const std::string& name) { return SigningKey::LoadOrCreate(directory_ / name).value(); }
  std::string Signed() { return SignRecordFile(UnsignedRecordFile(MadeRecord()), Key("key.pem")).value(); }

  const testing::TemporaryDirectory directory_;
};

TEST_F(RecordFileTest, ComesBackAsItWas) {
  EvaluationRecord apart = MadeInputs();
  apart.data.row_ids.back() = 4'000'000'000;
  EvaluationRecord last = MadeInputs();
  for (uint32_t i = 0; i < 10; ++i) last.data.row_ids[i] = 0xffffffff - 9 + i;
  for (const EvaluationRecord& record : {MadeRecord(), *MakeRecord(apart), *MakeRecord(last)}) {
    const std::string file = UnsignedRecordFile(record);
    const absl::StatusOr<RecordFile> parsed = ParseRecordFile(file);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->signed_by, "");
    EXPECT_EQ(UnsignedRecordFile(parsed->record), file);
    EXPECT_EQ(parsed->record.samples.broken_by, record.samples.broken_by);
    EXPECT_EQ(parsed->record.samples.margins, record.samples.margins);
    EXPECT_EQ(parsed->record.data.row_ids, record.data.row_ids);
  }
}

TEST_F(RecordFileTest, ASignedFileNamesItsKey) {
  const SigningKey key = Key("key.pem");
  const std::string file = SignRecordFile(UnsignedRecordFile(MadeRecord()), key).value();
  const absl::StatusOr<RecordFile> parsed = ParseRecordFile(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->signed_by, Base64Encode(key.public_key()));
  EXPECT_TRUE(RequireSigner(*parsed, "").ok());
  EXPECT_TRUE(RequireSigner(*parsed, parsed->signed_by).ok());
  const absl::Status other = RequireSigner(*parsed, Base64Encode(Key("other.pem").public_key()));
  EXPECT_TRUE(absl::IsFailedPrecondition(other));
  EXPECT_TRUE(absl::StrContains(other.message(), "is signed with the key " + parsed->signed_by + ", not with"));
}

TEST_F(RecordFileTest, AnUnsignedFileHasNoSigner) {
  const RecordFile file = ParseRecordFile(UnsignedRecordFile(MadeRecord())).value();
  EXPECT_TRUE(absl::StrContains(RequireSigner(file, "").message(), "the record is unsigned"));
  EXPECT_TRUE(absl::IsFailedPrecondition(RequireSigner(file, "")));
}

// The signature is of the bytes of the record as they stand in the file, so that any tool can check it.
TEST_F(RecordFileTest, SignsTheBytesInTheFile) {
  const std::string file = Signed();
  const json signature = json::parse(file).at("signature");
  const size_t start = std::string("{\"record\":").size();
  const std::string record = file.substr(start, file.find(",\"signature\":{\"algorithm\"") - start);
  EXPECT_TRUE(IsSignature(Base64Decode(signature.at("public_key")).value(), record,
                          Base64Decode(signature.at("value")).value()));
}

TEST_F(RecordFileTest, SignsOnlyWhatCanBeReadAndIsUnsigned) {
  const SigningKey key = Key("key.pem");
  EXPECT_TRUE(absl::IsFailedPrecondition(SignRecordFile(Signed(), key).status()));
  EvaluationRecord forged = MadeRecord();
  forged.figures.robust_accuracy.value = 0.9;
  EXPECT_TRUE(absl::IsDataLoss(SignRecordFile(UnsignedRecordFile(forged), key).status()));
}

// Every byte of a signed file, changed, and some taken out.
TEST_F(RecordFileTest, NoByteCanBeAltered) {
  const std::string file = Signed();
  ASSERT_TRUE(ParseRecordFile(file).ok());
  for (size_t i = 0; i < file.size(); ++i) {
    std::string altered = file;
    altered[i] = static_cast<char>(altered[i] ^ (i % 2 == 0 ? 0x01 : 0x10));
    ASSERT_FALSE(ParseRecordFile(altered).ok()) << "byte " << i << " of " << file.size();
    if (i % 16 != 0) continue;
    ASSERT_FALSE(ParseRecordFile(file.substr(0, i) + file.substr(i + 1)).ok()) << "without byte " << i;
  }
}

TEST_F(RecordFileTest, IsWholeOrNothing) {
  const std::string file = Signed();
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status = ParseRecordFile(file.substr(0, size)).status();
    ASSERT_TRUE(absl::StrContains(status.message(), "the record file is cut off")) << size << ": " << status;
  }
  EXPECT_TRUE(absl::StrContains(ParseRecordFile(file + "{}\n").status().message(), "is damaged"));
}

// A record that says something else and is as consistent and canonical as the first: only the signature tells.
TEST_F(RecordFileTest, AnotherRecordUnderTheSignatureIsRefused) {
  const std::string file = Signed();
  EvaluationRecord other = MadeInputs();
  other.model.source = "elsewhere";
  const std::string unsigned_file = UnsignedRecordFile(*MakeRecord(other));
  const std::string forged =
      unsigned_file.substr(0, unsigned_file.size() - 2) + file.substr(file.find(",\"signature\":{\"algorithm\""));
  const absl::Status status = ParseRecordFile(forged).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "the signature does not fit the record")) << status;
}

struct WrongFile {
  const char* name;
  std::function<void(json*)> make;
  const char* says;
};

void PrintTo(const WrongFile& wrong, std::ostream* out) { *out << wrong.name; }

json& Record(json* file) { return file->at("record"); }
json& Data(json* file) { return Record(file).at("data"); }
json& Samples(json* file) { return Record(file).at("samples"); }

class WrongFiles : public ::testing::TestWithParam<WrongFile> {};

INSTANTIATE_TEST_SUITE_P(
    Changes, WrongFiles,
    ::testing::Values(
        WrongFile{"NoRecord", [](json* f) { f->erase("record"); }, "is no record of an evaluation"},
        WrongFile{"NoObject", [](json* f) { *f = json::array({json::object()}); }, "is damaged"},
        WrongFile{"RecordIsAList", [](json* f) { Record(f) = json::array(); }, "the record is not an object"},
        WrongFile{"OtherVersion", [](json* f) { Record(f)["format_version"] = 2; }, "format_version is 2; this program"},
        WrongFile{"NoVersion", [](json* f) { Record(f).erase("format_version"); }, "format_version is missing"},
        WrongFile{"VersionIsText", [](json* f) { Record(f)["format_version"] = "1"; }, "format_version is not a whole"},
        WrongFile{"UnknownPart", [](json* f) { (*f)["remark"] = ""; }, "unknown field \"remark\""},
        WrongFile{"UnknownField", [](json* f) { Record(f)["remark"] = ""; }, "unknown field \"remark\""},
        WrongFile{"UnknownInner", [](json* f) { Data(f)["remark"] = ""; }, "data has an unknown field \"remark\""},
        WrongFile{"FieldMissing", [](json* f) { Record(f).at("attacks")[0].erase("steps"); },
                  "attacks[0].steps is missing"},
        WrongFile{"NoFigures", [](json* f) { Record(f).erase("figures"); }, "figures is missing"},
        WrongFile{"NumberIsText", [](json* f) { Record(f)["threat"]["epsilon"] = "many"; }, "threat.epsilon is not"},
        WrongFile{"CountIsHalf", [](json* f) { Record(f)["attacks"][0]["steps"] = 1.5; },
                  "attacks[0].steps is not a whole number from -2147483648 to 2147483647"},
        WrongFile{"CountTooHigh", [](json* f) { Record(f)["attacks"][0]["steps"] = 2147483648; }, "attacks[0].steps"},
        WrongFile{"NegativeRows", [](json* f) { Data(f)["rows"] = -1; }, "data.rows is not a whole number from 0"},
        WrongFile{"SeedIsNumber", [](json* f) { Record(f)["seed"] = 1; }, "seed is not text"},
        WrongFile{"SeedTooHigh", [](json* f) { Record(f)["seed"] = "18446744073709551616"; }, "seed is not text"},
        WrongFile{"TrustedIsText", [](json* f) { Record(f)["trusted"] = "true"; }, "trusted is not true or false"},
        WrongFile{"NameIsNumber", [](json* f) { Data(f)["name"] = 1; }, "data.name is not text"},
        WrongFile{"ListIsText", [](json* f) { Data(f)["class_names"] = "a"; }, "data.class_names is not a list"},
        WrongFile{"NotBase64", [](json* f) { Samples(f)["labels"] = "*"; }, "samples.labels is not base64"},
        WrongFile{"UnknownWarning", [](json* f) { Record(f)["warnings"][0]["type"] = "SUSPICIOUS"; },
                  "warnings[0].type is not a known type"},
        WrongFile{"WarningIsNumber", [](json* f) { Record(f)["warnings"][0]["type"] = 3; }, "warnings[0].type is not"},
        WrongFile{"ShortLabels", [](json* f) { Samples(f)["labels"] = "AAA="; },
                  "samples.labels has 2 bytes for 10 rows"},
        WrongFile{"ShortPredictions", [](json* f) { Samples(f)["clean_predictions"] = ""; },
                  "samples.clean_predictions has 0 bytes"},
        WrongFile{"ShortClasses", [](json* f) { Samples(f)["attack_predictions"] = ""; },
                  "samples.attack_predictions has 0 bytes"},
        WrongFile{"ShortMargins", [](json* f) { Samples(f)["margins"] = "AAAA"; }, "samples.margins has 3 bytes"},
        WrongFile{"ShortBitmap", [](json* f) { Samples(f)["broken"][0] = "AA=="; },
                  "samples.broken[0] has 1 bytes for 10 rows"},
        WrongFile{"LongBitmap", [](json* f) { Samples(f)["broken"][1] = "AAAA"; }, "samples.broken[1] has 3 bytes"},
        WrongFile{"BitBeyondTheRows", [](json* f) { Samples(f)["broken"][0] = Base64Encode("\x04\x05"); },
                  "samples.broken[0] has a bit beyond its 10 rows"},
        WrongFile{"BrokenTwice", [](json* f) { Samples(f)["broken"][1] = Samples(f)["broken"][0]; },
                  "samples.broken[1] breaks row 2, which attack 0 had broken already"},
        WrongFile{"OneBitmapTooFew", [](json* f) { Samples(f)["broken"].erase(1); }, "1 entries for 2 attacks"},
        WrongFile{"ManyRows", [](json* f) { Data(f)["rows"] = 200001; }, "data.rows is 200001; at most 200000"},
        WrongFile{"RowsBeyond32Bits", [](json* f) { Data(f)["first_row"] = 4294967290; }, "beyond 32 bits"},
        WrongFile{"ShortIds", [](json* f) { Data(f)["row_ids"] = "AAAA"; }, "data.row_ids has 3 bytes for 10 rows"},
        WrongFile{"FirstRowBesideIds",
                  [](json* f) {
                    std::string ids(40, '\0');
                    for (size_t i = 0; i < 10; ++i) ids[4 * i] = static_cast<char>(2 * i);
                    Data(f)["row_ids"] = Base64Encode(ids);
                  },
                  "not in canonical form"},
        WrongFile{"NullWithin", [](json* f) { Record(f)["device"] = nullptr; }, "null is not allowed"},
        WrongFile{"OtherFigure", [](json* f) { Record(f)["figures"]["robust_accuracy"]["value"] = 0.9; },
                  "contradicts itself or its schema: figures.robust_accuracy.value is 0.9"},
        WrongFile{"IntegerForANumber", [](json* f) { Record(f)["attacks"][1]["step_size"] = 0; },
                  "not in canonical form"},
        WrongFile{"NoSignatureText", [](json* f) { (*f)["signature"] = {{"algorithm", "ed25519"}}; },
                  "signature is no object of the texts"},
        WrongFile{"SignatureIsAList", [](json* f) { (*f)["signature"] = {"a", "b", "c"}; }, "signature is no object"},
        WrongFile{"OtherAlgorithm",
                  [](json* f) {
                    (*f)["signature"] = {{"algorithm", "rsa"}, {"public_key", ""}, {"value", ""}};
                  },
                  "signature.algorithm is \"rsa\""},
        WrongFile{"EmptySignature",
                  [](json* f) {
                    (*f)["signature"] = {{"algorithm", "ed25519"}, {"public_key", ""}, {"value", ""}};
                  },
                  "the signature does not fit the record"}),
    [](const ::testing::TestParamInfo<WrongFile>& tested) { return tested.param.name; });

TEST_P(WrongFiles, AreNamed) {
  json file = json::parse(UnsignedRecordFile(MadeRecord()));
  ASSERT_TRUE(ParseRecordFile(file.dump() + "\n").ok());
  GetParam().make(&file);
  const std::string text = file.is_array() ? file.dump() + "}\n" : file.dump() + "\n";
  const absl::Status status = ParseRecordFile(text).status();
  EXPECT_TRUE(absl::StrContains(status.message(), GetParam().says)) << status;
  EXPECT_EQ(absl::IsFailedPrecondition(status), std::string(GetParam().name) == "OtherVersion");
  EXPECT_NE(absl::IsDataLoss(status), absl::IsFailedPrecondition(status));
}

TEST(ParseRecordFileTest, TakesNoOtherSpelling) {
  const std::string file = UnsignedRecordFile(MadeRecord());
  const std::pair<const char*, const char*> kSpellings[] = {
      {"\"trusted\":", "\"trusted\": "},
      {"\"first_row\":7", "\"first_row\":7e0"},
      {"\"lowered_by\":0.2", "\"lowered_by\":0.20"},
      {"\"name\":\"toy\"", "\"name\":\"t\\u006fy\""},
      {"\"seed\":\"18446744073709551615\"", "\"seed\":\"018446744073709551615\""}};
  for (const auto& [canonical, other] : kSpellings) {
    ASSERT_TRUE(absl::StrContains(file, canonical));
    EXPECT_FALSE(ParseRecordFile(absl::StrReplaceAll(file, {{canonical, other}})).ok()) << other;
  }
  const std::string twice = absl::StrReplaceAll(file, {{"\"trusted\":", "\"trusted\":true,\"trusted\":"}});
  EXPECT_TRUE(absl::StrContains(ParseRecordFile(twice).status().message(), "\"trusted\" stands twice"));
}

TEST(ParseRecordFileTest, ErrorsCanBeShown) {
  for (const std::string& text : std::vector<std::string>{"{\"\xff\":1}\n", "{\"" + std::string(100000, 'a') + "}\n"}) {
    const std::string message(ParseRecordFile(text).status().message());
    EXPECT_LT(message.size(), 300u);
    EXPECT_TRUE(IsUtf8(message)) << message;
  }
}

TEST(ParseRecordFileTest, HasASizeLimit) {
  const std::string huge(kMostRecordFileBytes + 1, ' ');
  EXPECT_TRUE(absl::StrContains(ParseRecordFile(huge).status().message(), "at most 67108864 are allowed"));
}

// The largest record there can be fits into a file.
TEST(ParseRecordFileTest, TheMostRowsAndClassesFit) {
  EvaluationRecord inputs = MadeInputs();
  inputs.data.class_names.clear();
  for (size_t c = 0; c < kMostRecordClasses; ++c) inputs.data.class_names.push_back("class " + std::to_string(c));
  inputs.data.row_ids.clear();
  inputs.samples = {};
  for (uint32_t i = 0; i < kMostRecordRows; ++i) {
    inputs.data.row_ids.push_back(2 * i);
    inputs.samples.labels.push_back(static_cast<int32_t>(i % kMostRecordClasses));
    inputs.samples.margins.push_back(1);
  }
  inputs.samples.clean_predictions = inputs.samples.attack_predictions = inputs.samples.labels;
  inputs.samples.broken_by.assign(kMostRecordRows, kNotBroken);
  inputs.attacks.resize(64, inputs.attacks[1]);
  const absl::StatusOr<EvaluationRecord> record = MakeRecord(inputs, {.resamples = 100});
  ASSERT_TRUE(record.ok()) << record.status();
  const std::string file = UnsignedRecordFile(*record);
  EXPECT_LT(file.size(), kMostRecordFileBytes / 2);
  EXPECT_TRUE(ParseRecordFile(file).ok());
}

TEST(ReadRecordFileTest, ErrorsNameTheFile) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "record.json";
  const auto message = [&](const std::optional<std::string>& signed_by = std::nullopt) {
    return std::string(ReadRecordFile(path, signed_by).status().message());
  };
  EXPECT_TRUE(absl::IsNotFound(ReadRecordFile(path, std::nullopt).status()));
  EXPECT_TRUE(absl::StrContains(message(), path));
  const std::string unsigned_file = UnsignedRecordFile(testing::MadeRecord());
  testing::WriteTestFile(path, unsigned_file.substr(0, 100));
  EXPECT_TRUE(absl::StrContains(message(), path + ": the record file is cut off")) << message();
  testing::WriteTestFile(path, unsigned_file);
  EXPECT_TRUE(ReadRecordFile(path, std::nullopt).ok());
  EXPECT_TRUE(absl::StrContains(message(""), path + ": the record is unsigned"));
  const SigningKey key = SigningKey::LoadOrCreate(directory / "key.pem").value();
  testing::WriteTestFile(path, SignRecordFile(unsigned_file, key).value());
  EXPECT_TRUE(ReadRecordFile(path, Base64Encode(key.public_key())).ok());
  EXPECT_TRUE(absl::StrContains(message("another"), "not with another"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadRecordFile(path, "another").status()));
  EXPECT_TRUE(absl::IsDataLoss(ReadRecordFile("/dev/zero", std::nullopt).status()));
}

}  // namespace
}  // namespace ham
