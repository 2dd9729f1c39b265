#include "passes/place/problem.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/cost/estimate.h"
#include "passes/add_loss.h"
#include "passes/batch_updates.h"
#include "passes/fold_weights.h"
#include "passes/weights.h"

namespace mpc::place {

bool has_copy_engines(const Cluster& cluster) {
  return std::ranges::all_of(cluster.devices, [](const Device& device) { return device.backend == "cuda"; });
}

namespace {

bool have_equal_rates(const Device& a, const Device& b) {
  const DeviceRates& x = a.rates;
  const DeviceRates& y = b.rates;
  return a.measured == b.measured && x.flops_f32 == y.flops_f32 && x.flops_f16 == y.flops_f16 &&
         x.flops_f64 == y.flops_f64 && x.flops_tf32 == y.flops_tf32 && a.rounds_to_tf32 == b.rounds_to_tf32 &&
         x.bytes_per_second == y.bytes_per_second && x.launch_s == y.launch_s;
}

class ProblemBuilder {
 public:
  ProblemBuilder(const Graph& graph, const Cluster& cluster, int microbatches)
      : graph_(graph), cluster_(cluster), microbatches_(microbatches), is_fixed_(fixed_values(graph)) {}

  Problem run() {
    number_blocks();
    add_compute();
    add_tensors();
    add_memory();
    return std::move(problem_);
  }

 private:
  void number_blocks() {
    block_of_node_.assign(static_cast<size_t>(graph_.node_count()), -1);
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (node.phase == Phase::forward) {
        block_of_node_[static_cast<size_t>(i)] = static_cast<int>(problem_.nodes.size());
        problem_.nodes.push_back(NodeId(i));
      } else {
        MPC_CHECK(node.anchor.is_valid(), describe(node) + " has no anchor");
        block_of_node_[static_cast<size_t>(i)] = block_of_node_[node.anchor.index()];
        problem_.is_training = true;
      }
    }
    const size_t count = problem_.nodes.size();
    problem_.block_count = static_cast<int>(count);
    problem_.device_count = cluster_.count();
    problem_.cluster = &cluster_;
    problem_.persistent_bytes.assign(count, 0);
    problem_.kept_bytes.assign(count, 0);
    problem_.kept_for_weights_bytes.assign(count, 0);
    problem_.working_bytes.assign(count, 0);
    problem_.input_bytes.assign(count, 0);
    problem_.tensors_of.resize(count);
    problem_.pinned.assign(count, -1);
    problem_.follows.assign(count, -1);
    for (const Device& device : cluster_.devices) problem_.capacity_bytes.push_back(device.memory_bytes);
    problem_.microbatches = problem_.is_training ? microbatches_ : 1;
    problem_.overlaps_transfers = has_copy_engines(cluster_) && !problem_.is_training;
  }

  void add_compute() {
    std::vector<std::vector<double>> seconds_of_node;
    for (size_t d = 0; d < cluster_.devices.size(); ++d) {
      size_t alike = 0;
      while (alike < d && !have_equal_rates(cluster_.devices[alike], cluster_.devices[d])) ++alike;
      seconds_of_node.push_back(alike < d ? seconds_of_node[alike] : seconds_on(cluster_.devices[d]));
      std::vector<double>& of_block = problem_.seconds.emplace_back(problem_.nodes.size(), 0);
      for (size_t i = 0; i < block_of_node_.size(); ++i)
        of_block[static_cast<size_t>(block_of_node_[i])] += seconds_of_node[d][i];
    }
    problem_.make_path = [&graph = graph_, block_of_node = block_of_node_, seconds = std::move(seconds_of_node),
                          is_fixed = is_fixed_, microbatches = microbatches_] {
      return make_critical_path(graph, block_of_node, seconds, is_fixed, microbatches);
    };
  }

  // Sessions make these once, when they load the model (fold_weights.h).
  bool is_made_before(const Node& node) const {
    const auto is_fixed = [&](ValueId id) { return id.is_valid() && is_fixed_[id.index()]; };
    return graph_.updates.empty() && node.rate == Rate::per_step && may_fold(node.op) &&
           std::ranges::all_of(node.outputs, is_fixed);
  }

  // [node]: seconds per micro-batch.
  std::vector<double> seconds_on(const Device& device) const {
    std::vector<double> seconds;
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      double once = is_made_before(node) ? 0 : node_seconds(graph_, NodeId(i), device);
      if (is_batched(node.op)) once -= device.rates.launch_s;  // a device's updates are launched together
      seconds.push_back(node.rate == Rate::per_step ? once / microbatches_ : once);
    }
    return seconds;
  }

  // One tensor per value that crosses blocks. Backward values travel against their forward tensor, so they are counted
  // there.
  void add_tensors() {
    std::vector<int> tensor_of(static_cast<size_t>(graph_.value_count()), -1);
    const auto tensor_for = [&](ValueId id, int producer) -> Tensor& {
      if (tensor_of[id.index()] < 0) {
        tensor_of[id.index()] = static_cast<int>(problem_.tensors.size());
        problem_.tensors.emplace_back().producer = producer;
      }
      return problem_.tensors[static_cast<size_t>(tensor_of[id.index()])];
    };
    std::vector<int> owner(static_cast<size_t>(graph_.value_count()), -1);  // parameters: the block that reads it first
    for (int i = 0; i < graph_.node_count(); ++i) {
      const int block = block_of_node_[static_cast<size_t>(i)];
      for (const ValueId input : graph_.node(NodeId(i)).inputs) {
        if (!input.is_valid()) continue;
        const Value& value = graph_.value(input);
        int producer = -1;
        if (value.kind == ValueKind::node) {
          producer = block_of_node_[value.producer.index()];
        } else if (value.kind == ValueKind::parameter) {
          if (owner[input.index()] < 0) owner[input.index()] = block;
          producer = owner[input.index()];
        }
        if (producer < 0 || producer == block) continue;
        Tensor& tensor = tensor_for(input, producer);
        tensor.is_parameter = value.kind == ValueKind::parameter;
        if (std::ranges::find(tensor.consumers, block) != tensor.consumers.end()) continue;
        tensor.consumers.push_back(block);
        const bool per_step = value.rate == Rate::per_step;
        const bool is_backward = value.kind == ValueKind::node && graph_.node(value.producer).phase != Phase::forward;
        if (is_fixed_[input.index()] || (per_step && !is_backward)) tensor.copied_bytes = value.bytes();
        if (is_fixed_[input.index()]) continue;  // nothing travels
        const int64_t bytes = per_step ? std::max<int64_t>(1, value.bytes() / microbatches_) : value.bytes();
        (is_backward ? tensor.backward_bytes : tensor.forward_bytes) = bytes;
        if (!per_step && !is_backward) tensor.in_flight_bytes = bytes;
      }
    }
    for (size_t t = 0; t < problem_.tensors.size(); ++t) {
      Tensor& tensor = problem_.tensors[t];
      // A gradient runs from a later block to an earlier one: it is turned round, so that tensors follow the block
      // order.
      for (int& consumer : tensor.consumers) {
        if (consumer < tensor.producer) std::swap(consumer, tensor.producer);
      }
      std::ranges::sort(tensor.consumers);
      problem_.tensors_of[static_cast<size_t>(tensor.producer)].push_back(static_cast<int>(t));
      for (const int consumer : tensor.consumers)
        problem_.tensors_of[static_cast<size_t>(consumer)].push_back(static_cast<int>(t));
    }
  }

  void add_memory() {
    const auto users = users_of(graph_);
    is_gradient_.assign(static_cast<size_t>(graph_.value_count()), false);
    for (const ParameterGradient& g : graph_.gradients) is_gradient_[g.gradient.index()] = true;
    for (int v = 0; v < graph_.value_count(); ++v) {
      const Value& value = graph_.value(ValueId(v));
      if (users[static_cast<size_t>(v)].empty()) continue;
      const NodeId first = users[static_cast<size_t>(v)].front();
      const auto block = static_cast<size_t>(block_of_node_[first.index()]);
      if (value.kind == ValueKind::parameter || value.kind == ValueKind::state || value.kind == ValueKind::constant) {
        problem_.persistent_bytes[block] += value.bytes();
      } else if (value.kind == ValueKind::input) {
        problem_.input_bytes[block] += value.bytes();
      } else if (graph_.node(value.producer).phase == Phase::forward) {
        bool is_kept = false;
        for (const NodeId user : users[static_cast<size_t>(v)])
          is_kept = is_kept || graph_.node(user).phase != Phase::forward;
        if (is_kept) problem_.kept_bytes[static_cast<size_t>(block_of_node_[value.producer.index()])] += value.bytes();
      }
      count_for_weights(value, users[static_cast<size_t>(v)]);
    }
    for (int i = 0; i < graph_.node_count(); ++i) {
      int64_t bytes = 0;
      const Node& node = graph_.node(NodeId(i));
      const auto block = static_cast<size_t>(block_of_node_[static_cast<size_t>(i)]);
      if (node.phase == Phase::weight_grad) count_weight_gradient(node, block, users);
      const auto count = [&](ValueId id) {
        if (!id.is_valid()) return;
        const ValueKind kind = graph_.value(id).kind;
        if (graph_.value(id).rate == Rate::per_microbatch && (kind == ValueKind::node || kind == ValueKind::input))
          bytes += graph_.value(id).bytes();
      };
      for (const ValueId id : node.inputs) count(id);
      // What an accumulation adds goes straight into the accumulator in the first micro-batch.
      if (node.op == OpKind::GradAccumulate && microbatches_ == 1) continue;
      if (!writes_over_operand(node, users)) {
        for (const ValueId id : node.outputs) count(id);
      }
      if (!problem_.is_training) problem_.working_bytes[block] = std::max(problem_.working_bytes[block], bytes);
    }
  }

  // What weight gradients take beside the accumulators, which are states.
  void count_weight_gradient(const Node& node, size_t block, const std::vector<std::vector<NodeId>>& users) {
    // The gradient of a weight that is read in several places is a sum, which is there after the step. What comes from
    // elsewhere for it does so when hardly any activations are left.
    if (node.rate == Rate::per_step) {
      for (const ValueId output : node.outputs) {
        if (output.is_valid() && is_gradient_[output.index()])
          problem_.persistent_bytes[block] += graph_.value(output).bytes();
      }
      return;
    }
    // In the first micro-batch it is made where the accumulator is, and a product adds to that in all of them.
    const bool is_product = node.op == OpKind::Gemm || node.op == OpKind::MatMul;
    if (microbatches_ == 1 || (is_product && has_copy_engines(cluster_))) return;
    for (const ValueId output : node.outputs) {
      if (!output.is_valid() || users[output.index()].size() != 1) continue;
      if (graph_.node(users[output.index()].front()).op != OpKind::GradAccumulate) continue;
      problem_.working_bytes[block] = std::max(problem_.working_bytes[block], graph_.value(output).bytes());
    }
  }

  // What a micro-batch keeps until its weight gradients are made, where the first of them is.
  void count_for_weights(const Value& value, const std::vector<NodeId>& users) {
    if (value.rate == Rate::per_step || value.kind == ValueKind::parameter || value.kind == ValueKind::constant) return;
    if (value.kind == ValueKind::node && graph_.node(value.producer).phase == Phase::weight_grad) return;
    const auto reader =
        std::ranges::find_if(users, [&](NodeId user) { return graph_.node(user).phase == Phase::weight_grad; });
    if (reader == users.end()) return;
    problem_.kept_for_weights_bytes[static_cast<size_t>(block_of_node_[reader->index()])] += value.bytes();
  }

  // An elementwise result takes the bytes of an operand of its type that nobody else reads.
  bool writes_over_operand(const Node& node, const std::vector<std::vector<NodeId>>& users) const {
    if (op_share(node.op) != Share::kElementwise || !node.outputs.front().is_valid()) return false;
    const Value& output = graph_.value(node.outputs.front());
    return std::ranges::any_of(node.inputs, [&](ValueId id) {
      if (!id.is_valid() || users[id.index()].size() != 1) return false;
      const Value& value = graph_.value(id);
      return value.kind == ValueKind::node && value.dtype == output.dtype && value.shape == output.shape;
    });
  }

  const Graph& graph_;
  const Cluster& cluster_;
  int microbatches_;
  Problem problem_;
  std::vector<bool> is_fixed_;
  std::vector<bool> is_gradient_;  // [value]: of a parameter
  std::vector<int> block_of_node_;
};

void apply_pins(const Graph& graph, const std::vector<Pin>& pins, Problem& problem) {
  for (const Pin& pin : pins) {
    const std::string where = fmt::format("--pin {}={}", pin.pattern, pin.device);
    if (pin.device < 0 || pin.device >= problem.device_count) {
      throw Error(ErrorId::M003, where, fmt::format("there is no device {}", pin.device),
                  fmt::format("devices are 0..{}", problem.device_count - 1));
    }
    const std::regex regex = regex_of(pin);
    bool matched = false;
    for (int b = 0; b < problem.block_count; ++b) {
      const Node& node = graph.node(problem.nodes[static_cast<size_t>(b)]);
      if (!std::regex_search(node.name, regex)) continue;
      matched = true;
      if (problem.pinned[static_cast<size_t>(b)] < 0) problem.pinned[static_cast<size_t>(b)] = pin.device;
    }
    if (!matched) {
      std::vector<std::string> names;
      for (const NodeId id : problem.nodes) names.push_back(graph.node(id).name);
      const auto near = nearest(pin.pattern, names);
      throw Error(ErrorId::M002, where, "the pattern matches no node",
                  near ? "did you mean '" + *near + "'?" : "mpc partition --json - lists the nodes, under assignment");
    }
  }
}

// The blocks of the loss, each behind the block that makes its first computed operand.
void attach_loss(const Graph& graph, Problem& problem) {
  std::vector<int> block_of_value(static_cast<size_t>(graph.value_count()), -1);
  for (int b = 0; b < problem.block_count; ++b) {
    const Node& node = graph.node(problem.nodes[static_cast<size_t>(b)]);
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) block_of_value[output.index()] = b;
    }
    if (!node.name.starts_with(kLossScope) || problem.pinned[static_cast<size_t>(b)] >= 0) continue;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || block_of_value[input.index()] < 0) continue;
      problem.follows[static_cast<size_t>(b)] = block_of_value[input.index()];
      break;
    }
  }
}

// The block that `block` ends up beside.
int leader_of(const Problem& problem, int block) {
  while (problem.follows[static_cast<size_t>(block)] >= 0) block = problem.follows[static_cast<size_t>(block)];
  return block;
}

// Blocks that make nothing but fixed values, each beside its first reader.
void attach_weights(const Graph& graph, Problem& problem) {
  const std::vector<bool> is_fixed = fixed_values(graph);
  for (int b = problem.block_count - 1; b >= 0; --b) {
    const auto block = static_cast<size_t>(b);
    const Node& node = graph.node(problem.nodes[block]);
    const bool moves_weights =
        std::ranges::all_of(node.outputs, [&](ValueId id) { return !id.is_valid() || is_fixed[id.index()]; });
    if (!moves_weights || problem.pinned[block] >= 0 || problem.follows[block] >= 0) continue;
    int reader = problem.block_count;
    for (const int t : problem.tensors_of[block]) {
      const Tensor& tensor = problem.tensors[static_cast<size_t>(t)];
      if (tensor.producer == b) reader = std::min(reader, tensor.consumers.front());
    }
    if (reader == problem.block_count) continue;
    const int leader = leader_of(problem, reader);
    if (leader != b) problem.follows[block] = leader;
  }
}

}  // namespace

std::regex regex_of(const Pin& pin) {
  try {
    return std::regex(pin.pattern);
  } catch (const std::regex_error& error) {
    throw Error(ErrorId::M003, fmt::format("--pin {}={}", pin.pattern, pin.device),
                std::string("is not a regular expression: ") + error.what());
  }
}

std::vector<int> with_followers(const Problem& problem, std::vector<int> device_of_block) {
  for (size_t b = 0; b < device_of_block.size(); ++b) {
    if (problem.follows[b] >= 0) device_of_block[b] = device_of_block[static_cast<size_t>(problem.follows[b])];
  }
  return device_of_block;
}

double move_seconds(const Tensor& tensor, const Link& there, const Link& back) {
  double seconds = 0;
  if (tensor.forward_bytes > 0) seconds += transfer_seconds(tensor.forward_bytes, there);
  if (tensor.backward_bytes > 0) seconds += transfer_seconds(tensor.backward_bytes, back);
  return seconds;
}

const CriticalPath& Problem::path() const {
  if (!made_path) made_path = make_path();
  return *made_path;
}

double Problem::move_seconds(const Tensor& tensor, int from, int to) const {
  return place::move_seconds(tensor, cluster->link(DeviceId(from), DeviceId(to)),
                             cluster->link(DeviceId(to), DeviceId(from)));
}

Problem make_problem(const Graph& graph, const Cluster& cluster, const std::vector<Pin>& pins, int microbatches) {
  Problem problem = ProblemBuilder(graph, cluster, microbatches).run();
  apply_pins(graph, pins, problem);
  return problem;
}

void attach_followers(const Graph& graph, Problem& problem) {
  attach_loss(graph, problem);
  attach_weights(graph, problem);
}

}  // namespace mpc::place
