#include "passes/chunks.h"

namespace mpc {
namespace {

int part_count(ChunkLayout layout, int chunks) {
  switch (layout) {
    case ChunkLayout::one:
      return 1;
    case ChunkLayout::looped:
      return chunks;
    case ChunkLayout::vee:
      return 2;
  }
  return 1;
}

}  // namespace

ChunkedCluster chunk_devices(const Cluster& cluster, ChunkLayout layout, int chunks) {
  const int parts = part_count(layout, chunks);
  ChunkedCluster result;
  for (int part = 0; part < parts; ++part) {
    for (int i = 0; i < cluster.count(); ++i) {
      const bool is_reversed = layout == ChunkLayout::vee && part % 2 == 1;
      const DeviceId id(is_reversed ? cluster.count() - 1 - i : i);
      Device device = cluster.device(id);
      device.memory_bytes /= parts;
      result.cluster.devices.push_back(std::move(device));
      result.device_of.push_back(id);
    }
  }
  for (size_t from = 0; from < result.device_of.size(); ++from) {
    for (size_t to = 0; to < result.device_of.size(); ++to) {
      const DeviceId a = result.device_of[from];
      const DeviceId b = result.device_of[to];
      Link link = cluster.link(a, b);
      if (a == b) link = {a, b, cluster.device(a).rates.bytes_per_second, 0};
      link.from = DeviceId(from);
      link.to = DeviceId(to);
      result.cluster.links.push_back(link);
    }
  }
  return result;
}

}  // namespace mpc
