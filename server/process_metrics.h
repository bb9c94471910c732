// What the operating system says of this process and of the disk under the state directory.
#pragma once

#include <string>

#include "server/metric_families.h"

namespace ham::server {

// By the names that Prometheus's own libraries give them.
void AddProcessFamilies(MetricFamilies* families);
// Of the file system of `state_dir`; none where it cannot be asked.
void AddDiskFamilies(const std::string& state_dir, MetricFamilies* families);

}  // namespace ham::server
