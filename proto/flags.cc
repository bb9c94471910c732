#include "proto/flags.h"

#include <iostream>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ham {

void AddLogFormat(CLI::App* app, LogFormat* format) {
  static const std::map<std::string, LogFormat> kFormats = {{"text", LogFormat::kText}, {"json", LogFormat::kJson}};
  const auto set = [format](const std::string& text) {
    const auto found = kFormats.find(text);
    if (found == kFormats.end())
      throw CLI::ValidationError(absl::StrCat("--log-format \"", text, "\" must be text or json"));
    *format = found->second;
  };
  app->add_option_function<std::string>("--log-format", set,
                                        "Of what is written to standard error: text, or json, an object a line")
      ->default_str("text");
}

void AddConfigFile(CLI::App* app) {
  app->set_config("--config", "", "Read options from FILE, a line each: the name of a flag without --, =, the value");
  app->allow_config_extras(CLI::config_extras_mode::error);
}

int SayParseError(const CLI::App& app, const CLI::ParseError& error) {
  constexpr char kUnknownKey[] = "INI was not able to parse ";  // so says the library
  const std::string text = error.what();
  const CLI::Option* const config = app.get_config_ptr();
  if (config != nullptr && absl::StartsWith(text, kUnknownKey)) {
    // A section is read as an option with this mark.
    const absl::string_view name = absl::StripSuffix(absl::string_view(text).substr(sizeof(kUnknownKey) - 1), ".++");
    std::cerr << absl::StrCat(config->as<std::string>(), " has the unknown option \"", name,
                              "\": allowed are the names of the flags that --help lists, without --\n");
    return 2;
  }
  return app.exit(error, std::cout, std::cerr) == 0 ? 0 : 2;
}

}  // namespace ham
