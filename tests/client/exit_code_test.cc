#include "client/exit_code.h"

#include <gtest/gtest.h>

namespace ham::client {
namespace {

TEST(ExitCode, IsTheDocumentedOneForEachError) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::AlreadyExistsError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), 2);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), 3);
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("")), 4);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), 5);
  EXPECT_EQ(ExitCodeOf(absl::UnauthenticatedError("")), 6);
  EXPECT_EQ(ExitCodeOf(absl::PermissionDeniedError("")), 6);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("")), 7);
  EXPECT_EQ(ExitCodeOf(absl::CancelledError("")), 130);
}

TEST(ExitCode, OfAJobIsZeroOnlyForSuccess) {
  EXPECT_EQ(ExitCodeOf(ham::v1::Job::SUCCEEDED), 0);
  EXPECT_EQ(ExitCodeOf(ham::v1::Job::FAILED), 1);
  EXPECT_EQ(ExitCodeOf(ham::v1::Job::CANCELLED), 1);
}

}  // namespace
}  // namespace ham::client
