#include "proto/version.h"

#include "build_id.h"

namespace ham {

const char* BuildId() { return HAM_BUILD_ID; }

}  // namespace ham
