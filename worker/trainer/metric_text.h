// A MetricPoint as one line for people.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace ham::trainer {

// `point` as run_metrics.h and Trainer make it. Pure.
std::string MetricText(const nlohmann::json& point);

}  // namespace ham::trainer
