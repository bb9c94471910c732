#include "worker/trainer/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

Safetensors Example() {
  Safetensors content;
  content.tensors["conv.weight"] = at::arange(12, at::kFloat).reshape({2, 1, 2, 3});
  content.tensors["count"] = at::tensor(std::numeric_limits<int64_t>::min());
  content.tensors["double"] = at::div(at::arange(5, at::kDouble), 3);
  content.tensors["half"] = at::arange(4, at::kHalf);
  content.tensors["bfloat"] = at::arange(3, at::kBFloat16);
  content.tensors["empty"] = at::zeros({0, 3}, at::kFloat);
  content.metadata["scalars"] = R"({"lr":0.1})";
  return content;
}

std::string File(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

TEST(SafetensorsTest, RoundTrips) {
  const Safetensors in = Example();
  const auto bytes = EncodeSafetensors(in);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto out = DecodeSafetensors(*bytes);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->metadata, in.metadata);
  ASSERT_EQ(out->tensors.size(), in.tensors.size());
  for (const auto& [name, tensor] : in.tensors) {
    EXPECT_EQ(out->tensors.at(name).sizes(), tensor.sizes()) << name;
    EXPECT_EQ(out->tensors.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(out->tensors.at(name), tensor)) << name;
  }
}

TEST(SafetensorsTest, HoldsNothingAndNonFiniteNumbersToo) {
  EXPECT_TRUE(DecodeSafetensors(*EncodeSafetensors({})).value().tensors.empty());
  const float inf = std::numeric_limits<float>::infinity();
  const auto out = DecodeSafetensors(*EncodeSafetensors({{{"x", at::tensor({inf, -inf})}}, {}}));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->tensors.at("x").const_data_ptr<float>()[1], -inf);
}

TEST(SafetensorsTest, WritesLogicalOrderWhateverTheLayout) {
  const at::Tensor dense = at::arange(24, at::kFloat).reshape({2, 3, 2, 2});
  const at::Tensor strided = dense.contiguous(at::MemoryFormat::ChannelsLast);
  ASSERT_NE(strided.strides(), dense.strides());
  EXPECT_EQ(*EncodeSafetensors({{{"w", strided}}, {}}), *EncodeSafetensors({{{"w", dense}}, {}}));
  EXPECT_EQ(*EncodeSafetensors({{{"w", dense.slice(0, 1, 2)}}, {}}),
            *EncodeSafetensors({{{"w", dense.slice(0, 1, 2).clone()}}, {}}));
}

TEST(SafetensorsTest, TheDataStartsAtAMultipleOfEight) {
  for (const char* name : {"a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh"}) {
    const std::string bytes = *EncodeSafetensors({{{name, at::tensor(1.0F)}}, {}});
    EXPECT_EQ((bytes.size() - sizeof(float)) % 8, 0U) << name;
  }
}

TEST(SafetensorsTest, RefusesWhatItCannotWrite) {
  const auto refused = [](const Safetensors& content) {
    return absl::IsInvalidArgument(EncodeSafetensors(content).status());
  };
  EXPECT_TRUE(refused({{{"x", at::zeros({1}, at::kInt)}}, {}}));
  EXPECT_TRUE(refused({{{"", at::zeros({1})}}, {}}));
  EXPECT_TRUE(refused({{{"__metadata__", at::zeros({1})}}, {}}));
  EXPECT_TRUE(refused({{{"x", at::Tensor()}}, {}}));
  EXPECT_TRUE(refused({{{"\xff", at::zeros({1})}}, {}}));
  EXPECT_TRUE(refused({{}, {{"k", "\xff"}}}));
}

TEST(SafetensorsTest, EveryCutIsSeen) {
  const std::string bytes = *EncodeSafetensors(Example());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeSafetensors(bytes.substr(0, size)).status())) << size;
  }
  EXPECT_TRUE(absl::IsDataLoss(DecodeSafetensors(bytes + " ").status()));
}

TEST(SafetensorsTest, FlippedBytesNeverHarmTheReader) {
  const std::string bytes = *EncodeSafetensors(Example());
  const size_t data = bytes.size() - 12 * sizeof(float) - sizeof(int64_t) - 5 * sizeof(double) - 7 * 2;
  int refused = 0;
  for (size_t i = 0; i < data; ++i) {
    for (const unsigned char flip : {0x01, 0x80, 0xff}) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ flip);
      const auto result = DecodeSafetensors(damaged);  // another letter in a name is no error of the format
      if (!result.ok()) {
        EXPECT_TRUE(absl::IsDataLoss(result.status())) << i << ": " << result.status();
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, static_cast<int>(data));
}

TEST(SafetensorsTest, AFileIsItsBytesAndErrorsNameIt) {
  const ham::testing::TemporaryDirectory directory;
  const std::string path = directory.path() + "/weights.safetensors";
  EXPECT_TRUE(absl::IsNotFound(ReadSafetensors(path).status()));
  const std::string bytes = *EncodeSafetensors(Example());
  std::ofstream(path, std::ios::binary) << bytes;
  const auto content = ReadSafetensors(path);
  ASSERT_TRUE(content.ok()) << content.status();
  EXPECT_EQ(*EncodeSafetensors(*content), bytes);
  std::ofstream(path, std::ios::binary) << File(
      R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
      std::string(16, '\0'));
  const absl::Status status = ReadSafetensors(path).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_EQ(status.message(), path + ": safetensors: tensor \"b\" starts at byte 8 of the data, within the one before, "
                                     "which ends at 12");
}

TEST(SafetensorsTest, RefusesHeadersThatLie) {
  const std::string data(16, '\0');
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  ASSERT_TRUE(DecodeSafetensors(File(entry("F32", "[4]", "[0,16]"), data)).ok());
  for (
      const std::string& header : {
          entry("F32", "[3]", "[0,16]"),
          entry("F32", "[4]", "[0,12]"),
          entry("F32", "[5]", "[0,20]"),
          entry("F32", "[4]", "[4,20]"),
          entry("F32", "[4]", "[16,0]"),
          entry("F32", "[2]", "[8,16]"),
          entry("F32", "[2]", "[0,8]"),
          entry("F8_E4M3", "[16]", "[0,16]"),
          entry("f32", "[4]", "[0,16]"),
          entry("F32", "4", "[0,16]"),
          entry("F32", "[4.0]", "[0,16]"),
          entry("F32", "[-4]", "[0,16]"),
          entry("F32", "[\"4\"]", "[0,16]"),
          entry("F32", "[4]", "[0]"),
          entry("F32", "[4]", "[0,16,16]"),
          entry("F32", "[4]", "[-16,0]"),
          entry("F32", "[4611686018427387905]", "[0,4]"),
          entry("F32", "[4294967296,4294967296,4]", "[0,0]"),
          entry("F32", "[9223372036854775807,0]", "[0,0]"),
          entry("F32", "[18446744073709551615]", "[0,16]"),
          std::string(R"({"a":{"dtype":"F32","shape":[4]}})"),
          std::string(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"more":1}})"),
          std::string(R"({"":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})"),
          std::string(R"({"a":7})"),
          std::string(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"__metadata__":{"k":1}})"),
          std::string(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"__metadata__":[]})"),
          // overlap, hole, a name twice
          std::string(
              R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})"),
          std::string(
              R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})"),
          std::string(
              R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})"),
          std::string("[]"),
          std::string("{"),
          std::string("{}"),
          std::string(),
      }) {
    const absl::Status status = DecodeSafetensors(File(header, data)).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << header << ": " << status;
  }
  std::string huge = File("{}", "");
  std::memset(huge.data(), 0xff, 8);
  EXPECT_TRUE(absl::IsDataLoss(DecodeSafetensors(huge).status()));
}

}  // namespace
}  // namespace ham::trainer
