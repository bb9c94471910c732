// Evaluations and comparisons as tables for people and as JSON for programs. Pure.
#pragma once

#include <string>
#include <vector>

#include "proto/evaluation/comparison.h"
#include "proto/evaluation/record_file.h"

namespace ham::client {

// What was attacked and how, figures with intervals, classes, what each attack changed, warnings, who signed it.
std::string EvaluationTables(const RecordFile& file);
// The record without its samples, and signed_by ("": unsigned). Indented; ends with a newline.
std::string EvaluationJson(const RecordFile& file);

// The records are those that were compared.
std::string ComparisonTables(const std::vector<NamedRecord>& a, const std::vector<NamedRecord>& b,
                             const RecordComparison& comparison);
// RecordComparison with the names of its fields.
std::string ComparisonJson(const RecordComparison& comparison);

}  // namespace ham::client
