// Versions that must agree before two programs talk.
#pragma once

namespace ham {

// Semantic version of the release.
inline constexpr char kVersion[] = "0.1.0";

// Of the worker protocol; another number is refused with FAILED_PRECONDITION.
inline constexpr int kProtocolVersion = 1;

// Twelve hex digits over the sources of proto/ and worker/: agent and trainer must be of one build.
const char* BuildId();

}  // namespace ham
