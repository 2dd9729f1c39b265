#include "compiler/cost/estimate.h"

#include <algorithm>

#include "compiler/cost/profile.h"
#include "compiler/ops/builder.h"

namespace mpc {

int64_t operand_bytes(const Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  int64_t bytes = 0;
  for (const ValueId input : node.inputs) bytes += input.is_valid() ? graph.value(input).bytes() : 0;
  for (const ValueId output : node.outputs) bytes += output.is_valid() ? graph.value(output).bytes() : 0;
  return bytes;
}

double node_flops(const Graph& graph, NodeId id) {
  return quantities_of(graph, id).flops;
}

DType node_dtype(const Graph& graph, NodeId id) {
  DType dtype = DType::f32;
  for (const ValueId output : graph.node(id).outputs) {
    if (output.is_valid() && is_float(graph.value(output).dtype)) dtype = graph.value(output).dtype;
  }
  return dtype;
}

double node_seconds(const Graph& graph, NodeId id, const Device& device) {
  const DType dtype = node_dtype(graph, id);
  const double flops = node_flops(graph, id);
  const double bytes = static_cast<double>(operand_bytes(graph, id));
  if (device.measured) {
    const OpKey key{graph.node(id).op, dtype, !graph.updates.empty()};
    return device.rates.launch_s + device.measured->kernel_seconds(key, flops, bytes);
  }
  return device.rates.launch_s + std::max(flops / device.rates.flops(dtype), bytes / device.rates.bytes_per_second);
}

double transfer_seconds(int64_t bytes, const Link& link) {
  return link.latency_s + static_cast<double>(bytes) / link.bytes_per_second;
}

}  // namespace mpc
