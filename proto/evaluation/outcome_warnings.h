// What the outcomes of an evaluation say against it. EvaluationWarning (proto/ham/v1/evaluation.proto) says what each
// type means. Pure; any thread.
#pragma once

#include <vector>

#include "proto/evaluation/evaluation_record.h"

namespace ham {

// Of the attacks and samples of a record; nothing else of it is looked at. One warning a type at
// most, of the first attack that gives cause.
//   BLACK_BOX_STRONGER  square, behind another attack, broke more than 0.2 % of the rows: the rule of AutoAttack's
//                       authors, whatever the number of rows; below 500 rows one is enough
//   WEAK_PGD            apgd-t, behind pgd or apgd with cross entropy, lowered robust accuracy by more than 4 points,
//   or
//                       that of the worst class by more than 8; of classes with 25 rows or more, as in smaller ones
//                       three rows are not needed for that
//   FEWER_TARGETS       an attack aimed at fewer than kDefaultTargets classes
std::vector<EvaluationWarning> OutcomeWarnings(const EvaluationRecord& record);

}  // namespace ham
