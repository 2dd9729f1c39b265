#include "compiler/cost/estimate.h"

#include <algorithm>

#include "compiler/ops/builder.h"

namespace mpc {

int64_t operand_bytes(const Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  int64_t bytes = 0;
  for (const ValueId input : node.inputs) bytes += input.is_valid() ? graph.value(input).bytes() : 0;
  for (const ValueId output : node.outputs) bytes += output.is_valid() ? graph.value(output).bytes() : 0;
  return bytes;
}

double node_flops(const Graph& graph, NodeId id) { return quantities_of(graph, id).flops; }

double node_seconds(const Graph& graph, NodeId id, const Device& device) {
  const Node& node = graph.node(id);
  DType dtype = DType::f32;
  for (const ValueId output : node.outputs) {
    if (output.is_valid() && is_float(graph.value(output).dtype)) dtype = graph.value(output).dtype;
  }
  const double arithmetic = node_flops(graph, id) / device.rates.flops(dtype);
  const double memory = static_cast<double>(operand_bytes(graph, id)) / device.rates.bytes_per_second;
  return device.rates.launch_s + std::max(arithmetic, memory);
}

double transfer_seconds(int64_t bytes, const Link& link) {
  return link.latency_s + static_cast<double>(bytes) / link.bytes_per_second;
}

}  // namespace mpc
