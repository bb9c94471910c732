// Frames as text, the way a trainer's socket brings them.
#pragma once

#include <string>
#include <vector>

namespace ham::testing {

// One of each frame that a trainer sends, all fields set.
inline const std::vector<std::string>& TrainerFrameTexts() {
  static const std::vector<std::string> texts = {
      R"({"type":"hello","build_id":"0123456789ab"})",
      R"({"type":"progress","phase":"train","tick":12,"iteration":3,"epoch":1,"collective_sequence":7,
          "collective_begun":8,"collective_seconds":0.5})",
      R"({"type":"metric","point":{"iteration":"5","epoch":2,"train":{"loss":"NaN","learning_rate":0.1,
          "hard_share":1,"iterations":"5","end_of_epoch":true,"per_class_hard_share":[0.5,"NaN"],
          "steps_to_boundary":["3","1",0,9],"confidence_histogram":[1,2,3,4,5,6,7,8,9,0,0,0,0,0,0,0,0,0,0,"1"],
          "rank_skew":1.25,"gradient_norm":2.5}}})",
      R"({"type":"metric","point":{"iteration":9,"epoch":2,"evaluation":{"split":"test","rows":3,
          "class_names":["a","b"],"per_class_rows":[1,2],"clean_accuracy":0.5,
          "per_class_clean_accuracy":[0.5,"NaN"],"suites":[{"name":"pgd","robust_accuracy":0.25,
          "per_class_robust_accuracy":["Infinity","-Infinity"],"worst_class":1,"worst_class_name":"b"}],
          "final":true}}})",
      R"({"type":"metric","point":{"summary":{"attack_seconds":1.5,"iterations":"77","inexact_because":["4 ranks, not 2"]}}})",
      R"({"type":"checkpoint","manifest":"/w/c/manifest.json","iteration":10,"epoch":3})",
      R"({"type":"store_set","id":1,"key":"rank/0","value":"AP8="})",
      R"({"type":"store_get","id":2,"key":"rank/1","timeout_seconds":1.5})",
      R"({"type":"failed","class":"USER","message":"no such data set","lost_rank":-1})",
      R"({"type":"done"})",
      R"({"type":"finding","finding":{"inputs":"{\"seed\":\"0\"}"}})",
      R"({"type":"finding","finding":{"block":{"stage":1,"rows":[0,7,4294967295],"predictions":[3,0,9],
          "margins":[0.25,-1.5,"NaN"],"seconds":0.125,"forward_passes":"300","gradient_passes":200}}})",
      R"({"type":"finding","finding":{"checks":{"warnings":[{"type":"ZERO_GRADIENTS","message":"of 3 images"}]}}})",
      R"({"type":"failed","class":"INFRASTRUCTURE","message":"lost the connection to rank 2","lost_rank":2})"};
  return texts;
}

}  // namespace ham::testing
