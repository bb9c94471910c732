// Messages as JSON and YAML, for programs.
#pragma once

#include <string>
#include <vector>

#include "client/options.h"
#include "google/protobuf/message.h"

namespace ham::client {

// The message with its proto field names and all primitive fields; ends with a newline. `format` is not kTable. JSON is
// indented, unless `stream`: then a message is one line of JSON, or one document of YAML.
std::string Serialize(const google::protobuf::Message& message, OutputFormat format, bool stream = false);

}  // namespace ham::client
