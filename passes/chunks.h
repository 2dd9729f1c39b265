#pragma once

#include <vector>

#include "compiler/cost/cluster.h"

namespace mpc {

/// How the stages of a pipeline go round the devices.
enum class ChunkLayout : uint8_t {
  one,     // one run of stages per device
  looped,  // 0 1 2 0 1 2: for interleaved schedules
  vee,     // 0 1 2 2 1 0: for zb-v
};

/// A cluster of parts of devices, for placing several runs of nodes on each device: whoever places on the parts of
/// `cluster` has placed on devices.
struct ChunkedCluster {
  Cluster cluster;
  std::vector<DeviceId> device_of;  // [part]
};

/// Every part has its device's rates and an equal share of its memory. Parts of one device are linked by its own
/// memory. `vee` makes two parts of each device, whatever `chunks` says; `one` makes one.
ChunkedCluster chunk_devices(const Cluster& cluster, ChunkLayout layout, int chunks);

}  // namespace mpc
