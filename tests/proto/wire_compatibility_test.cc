// What was published stays readable: each message, field, enum value and method of the committed descriptor
// still exists with the same number, type and name. After adding to the protocol run
// tests/proto/update_descriptor.sh and commit its result.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "google/protobuf/descriptor.pb.h"
#include "ham/v1/cluster_service.pb.h"
#include "ham/v1/evaluation.pb.h"
#include "ham/v1/job_service.pb.h"
#include "ham/v1/worker_service.pb.h"

namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;

class WireCompatibility : public testing::Test {
 protected:
  void SetUp() override {
    std::ifstream file(HAM_DESCRIPTOR, std::ios::binary);
    ASSERT_TRUE(file) << HAM_DESCRIPTOR;
    ASSERT_TRUE(committed_.ParseFromIstream(&file));
    ASSERT_GE(committed_.file_size(), 6);
    // These are linked in, so that the generated pool knows all files.
    (void)ham::v1::CreateJobRequest::descriptor();
    (void)ham::v1::ListWorkersRequest::descriptor();
    (void)ham::v1::AgentMessage::descriptor();
    (void)ham::v1::EvaluationRecord::descriptor();
  }

  void CheckEnum(const EnumDescriptorProto& old, const std::string& name) {
    const auto* now = DescriptorPool::generated_pool()->FindEnumTypeByName(name);
    ASSERT_NE(now, nullptr) << "enum " << name << " is gone";
    for (const auto& value : old.value()) {
      const auto* found = now->FindValueByName(value.name());
      ASSERT_NE(found, nullptr) << name << "." << value.name() << " is gone";
      EXPECT_EQ(found->number(), value.number()) << name << "." << value.name();
    }
  }

  void CheckMessage(const DescriptorProto& old, const std::string& name) {
    const auto* now = DescriptorPool::generated_pool()->FindMessageTypeByName(name);
    ASSERT_NE(now, nullptr) << "message " << name << " is gone";
    DescriptorProto current;
    now->CopyTo(&current);
    for (const FieldDescriptorProto& field : old.field()) {
      const auto* descriptor = now->FindFieldByNumber(field.number());
      ASSERT_NE(descriptor, nullptr) << name << "." << field.name() << " is gone";
      FieldDescriptorProto found;
      descriptor->CopyTo(&found);
      EXPECT_EQ(found.name(), field.name()) << name;
      EXPECT_EQ(found.type(), field.type()) << name << "." << field.name();
      EXPECT_EQ(found.label(), field.label()) << name << "." << field.name();
      EXPECT_EQ(found.type_name(), field.type_name()) << name << "." << field.name();
      EXPECT_EQ(found.proto3_optional(), field.proto3_optional()) << name << "." << field.name();
    }
    for (const auto& nested : old.nested_type()) CheckMessage(nested, name + "." + nested.name());
    for (const auto& nested : old.enum_type()) CheckEnum(nested, name + "." + nested.name());
  }

  FileDescriptorSet committed_;
};

TEST_F(WireCompatibility, KeepsMessagesAndEnums) {
  for (const FileDescriptorProto& file : committed_.file()) {
    for (const auto& message : file.message_type()) CheckMessage(message, file.package() + "." + message.name());
    for (const auto& value : file.enum_type()) CheckEnum(value, file.package() + "." + value.name());
  }
}

TEST_F(WireCompatibility, KeepsMethods) {
  int methods = 0;
  for (const FileDescriptorProto& file : committed_.file()) {
    for (const auto& service : file.service()) {
      for (const auto& method : service.method()) {
        const std::string name = file.package() + "." + service.name() + "." + method.name();
        const auto* now = DescriptorPool::generated_pool()->FindMethodByName(name);
        ASSERT_NE(now, nullptr) << name << " is gone";
        EXPECT_EQ("." + now->input_type()->full_name(), method.input_type()) << name;
        EXPECT_EQ("." + now->output_type()->full_name(), method.output_type()) << name;
        EXPECT_EQ(now->client_streaming(), method.client_streaming()) << name;
        EXPECT_EQ(now->server_streaming(), method.server_streaming()) << name;
        ++methods;
      }
    }
  }
  EXPECT_GE(methods, 15);
}

// The committed file must not lag behind, or a later removal of a new field would go unseen.
TEST_F(WireCompatibility, CommittedDescriptorIsUpToDate) {
  for (const FileDescriptorProto& file : committed_.file()) {
    const auto* now = DescriptorPool::generated_pool()->FindFileByName(file.name());
    ASSERT_NE(now, nullptr) << file.name();
    FileDescriptorProto current;
    now->CopyTo(&current);
    now->CopyJsonNameTo(&current);
    EXPECT_TRUE(current.SerializeAsString() == file.SerializeAsString())
        << file.name() << " changed; run tests/proto/update_descriptor.sh";
  }
}

}  // namespace
