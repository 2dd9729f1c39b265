#include "compiler/cost/estimate.h"

#include <algorithm>
#include <vector>

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

int64_t moved_bytes(OpKind op, std::span<const int64_t> bytes_of_inputs, int64_t bytes_of_outputs) {
  if (op == OpKind::Reshape) return 0;
  constexpr OpKind kReadAsMuchAsTheyGive[] = {OpKind::Gather, OpKind::GatherElements, OpKind::GatherND, OpKind::Slice};
  const bool reads_a_part = std::ranges::find(kReadAsMuchAsTheyGive, op) != std::end(kReadAsMuchAsTheyGive);
  int64_t bytes = bytes_of_outputs;
  for (size_t i = 0; i < bytes_of_inputs.size(); ++i)
    bytes += i == 0 && reads_a_part ? std::min(bytes_of_inputs[i], bytes_of_outputs) : bytes_of_inputs[i];
  return bytes;
}

double node_flops(const Graph& graph, NodeId id) {
  return quantities_of(graph, id).flops;
}

Arithmetic node_arithmetic(const Graph& graph, NodeId id, bool rounds_to_tf32) {
  NarrowestFloat narrowest;
  for (const auto* list : {&graph.node(id).inputs, &graph.node(id).outputs}) {
    for (const ValueId value : *list) {
      if (value.is_valid()) narrowest.add(graph.value(value).dtype);
    }
  }
  return narrowest.arithmetic(rounds_to_tf32);
}

namespace {

int64_t moved_bytes(const Graph& graph, NodeId id) {
  const Node& node = graph.node(id);
  std::vector<int64_t> inputs;
  int64_t outputs = 0;
  for (const ValueId input : node.inputs) {
    if (input.is_valid()) inputs.push_back(graph.value(input).bytes());
  }
  for (const ValueId output : node.outputs) outputs += output.is_valid() ? graph.value(output).bytes() : 0;
  return mpc::moved_bytes(node.op, inputs, outputs);
}

/// What CPU devices, which compute in f32, write and read beside a node's operands of 16 bits: each of them once more
/// in f32. What only moves elements does not.
double widening_bytes(const Graph& graph, NodeId id) {
  constexpr double kWrittenAndRead = 2 * sizeof(float);
  double bytes = 0;
  for (const auto* list : {&graph.node(id).inputs, &graph.node(id).outputs}) {
    for (const ValueId value : *list) {
      if (!value.is_valid()) continue;
      const DType dtype = graph.value(value).dtype;
      if (dtype == DType::f16 || dtype == DType::bf16)
        bytes += kWrittenAndRead * static_cast<double>(graph.value(value).shape.elements());
    }
  }
  return bytes;
}

}  // namespace

double node_seconds(const Graph& graph, NodeId id, const Device& device, double parts) {
  if (graph.node(id).op == OpKind::Reshape) return 0;  // nothing is launched
  const Arithmetic arithmetic = node_arithmetic(graph, id, device.rounds_to_tf32);
  const double flops = node_flops(graph, id) / parts;
  const double bytes = static_cast<double>(moved_bytes(graph, id)) / parts;
  if (device.measured) {
    const Node& node = graph.node(id);
    // What adds a product takes the time of that.
    const bool is_product = node.op == OpKind::GradAccumulate && node.inputs.size() > 2;
    const OpKey key{is_product ? OpKind::Gemm : node.op, arithmetic, !graph.updates.empty()};
    return device.rates.launch_s + device.measured->kernel_seconds(key, flops, bytes);
  }
  const double widening = flops > 0 && device.backend == "cpu" ? widening_bytes(graph, id) / parts : 0;
  const double roofline = std::max(flops / device.rates.flops(arithmetic), bytes / device.rates.bytes_per_second);
  return device.rates.launch_s + roofline + widening / device.rates.bytes_per_second;
}

double transfer_seconds(int64_t bytes, const Link& link) {
  return link.latency_s + static_cast<double>(bytes) / link.bytes_per_second;
}

}  // namespace mpc
