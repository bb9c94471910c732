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

// DEL and the control characters of U+0080 to U+009F, which JSON lets stand, as \u escapes: a terminal would obey them.
std::string EscapedForTerminal(const std::string& json);

}  // namespace ham::client
