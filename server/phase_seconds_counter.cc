#include "server/phase_seconds_counter.h"

#include <algorithm>
#include <cmath>

namespace ham::server {

void PhaseSecondsCounter::Add(const ham::v1::TrainMetrics& train) {
  if (!train.has_phase_seconds()) return;
  const ham::v1::PhaseSeconds& point = train.phase_seconds();
  const google::protobuf::Descriptor* const phases = ham::v1::PhaseSeconds::descriptor();
  for (int i = 0; i < phases->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* const phase = phases->field(i);
    const double reported = point.GetReflection()->GetDouble(point, phase);
    const double seconds = std::isfinite(reported) ? reported : 0;  // a worker may say anything
    double& known = of_epoch_[phase->name()];
    const double added = std::max(0.0, train.end_of_epoch() ? seconds - known : seconds);
    seconds_[phase->name()] += added;
    known = train.end_of_epoch() ? 0 : known + added;
  }
}

}  // namespace ham::server
