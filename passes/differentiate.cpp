#include "passes/differentiate.h"

#include <algorithm>
#include <regex>
#include <set>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

constexpr size_t kMostAccumulators = 4;

class Differentiator {
 public:
  Differentiator(Graph graph, ValueId seed, ShapeChoices* choices)
      : graph_(std::move(graph)), seed_(seed), choices_(choices), forward_count_(graph_.node_count()) {}

  Graph run() {
    find_first_readers();
    mark_values_that_need_gradients();
    refuse_nodes_without_gradient();
    contributions_.resize(static_cast<size_t>(graph_.value_count()));
    const Value loss = graph_.value(graph_.loss);
    const ValueId seed =
        seed_.is_valid() ? seed_ : graph_.add_constant("loss/seed", Literal::splat_number(loss.dtype, loss.shape, 1));
    contributions_[graph_.loss.index()].push_back({seed, {}, false});
    for (int i = forward_count_ - 1; i >= 0; --i) differentiate_node(NodeId(i));
    accumulate_parameter_gradients();
    set_phases();
    graph_.stage = Stage::training;
    return std::move(graph_);
  }

 private:
  struct Contribution {
    ValueId gradient;
    NodeId reader;           // the forward node whose gradient rule made it
    bool is_summed = false;  // over the micro-batches
    bool is_own = false;     // made for this sum, and read by nothing else
  };

  bool needs_gradient(ValueId id) const { return id.is_valid() && id.index() < needs_.size() && needs_[id.index()]; }

  void find_first_readers() {
    for (int i = forward_count_ - 1; i >= 0; --i) {
      for (const ValueId input : graph_.node(NodeId(i)).inputs) {
        if (input.is_valid()) first_reader_[input] = NodeId(i);
      }
    }
  }

  // A value needs a gradient when a trainable parameter reaches it through differentiable operands.
  void mark_values_that_need_gradients() {
    needs_.assign(static_cast<size_t>(graph_.value_count()), false);
    for (int i = 0; i < graph_.value_count(); ++i) {
      const Value& value = graph_.value(ValueId(i));
      if (value.kind == ValueKind::parameter && value.trainable && is_float(value.dtype))
        needs_[static_cast<size_t>(i)] = true;
    }
    for (const Node& node : graph_.nodes()) {
      if (op_def(node.op).differentiable == Differentiable::constant) continue;
      bool any = false;
      for (size_t k = 0; k < node.inputs.size(); ++k) any = any || carries_gradient(node, k);
      if (!any) continue;
      for (const ValueId output : node.outputs) {
        if (output.is_valid() && is_float(graph_.value(output).dtype)) needs_[output.index()] = true;
      }
    }
    if (!needs_[graph_.loss.index()]) {
      throw Error(ErrorId::M046, graph_.name, "the loss depends on no trainable parameter",
                  "check --freeze and --loss-input");
    }
  }

  bool carries_gradient(const Node& node, size_t k) const {
    const auto& excluded = op_def(node.op).no_gradient_inputs;
    return needs_gradient(node.inputs[k]) && std::ranges::find(excluded, static_cast<int>(k)) == excluded.end();
  }

  void refuse_nodes_without_gradient() const {
    std::vector<bool> reaches_loss(static_cast<size_t>(graph_.value_count()), false);
    reaches_loss[graph_.loss.index()] = true;
    std::string names;
    std::string first;
    int count = 0;
    for (int i = forward_count_ - 1; i >= 0; --i) {
      const Node& node = graph_.node(NodeId(i));
      bool reached = false;
      bool wanted = false;
      for (const ValueId output : node.outputs) {
        if (!output.is_valid()) continue;
        reached = reached || reaches_loss[output.index()];
        wanted = wanted || (reaches_loss[output.index()] && needs_gradient(output));
      }
      if (reached) {
        for (const ValueId input : node.inputs) {
          if (input.is_valid()) reaches_loss[input.index()] = true;
        }
      }
      if (!wanted || op_def(node.op).differentiable == Differentiable::yes) continue;
      if (count++ == 0) first = node.origin;
      names += (names.empty() ? "" : ", ") + describe(node);
    }
    if (count > 0) {
      throw Error(ErrorId::M044, first, fmt::format("{} node(s) cannot be differentiated: {}", count, names),
                  "freeze the parameters before them with --freeze");
    }
  }

  // Does each micro-batch have a gradient of its own of the value? (One that is the same in every step, and what is
  // made of such alone, is reached by the sum over the micro-batches.)
  bool is_per_step(ValueId id) const {
    return graph_.value(id).rate == Rate::per_step && graph_.value(graph_.loss).rate == Rate::per_microbatch;
  }

  // The sum of the gradients that the readers of the value contribute.
  ValueId total(ValueId id) {
    auto& parts = contributions_[id.index()];
    if (parts.empty()) return {};
    if (is_per_step(id)) sum_over_microbatches(id, parts);
    add_up(id, parts);
    return parts.front().gradient;
  }

  void add_up(ValueId id, std::vector<Contribution>& parts) {
    while (parts.size() > 1) {
      NodeInfo info;
      info.name = graph_.value(id).name + "/grad/sum";
      info.phase = Phase::input_grad;
      // The sum belongs where the value was made: its anchor is the producer, or for parameters the first reader.
      info.anchor = anchor_of(id);
      info.origin = info.anchor.is_valid() ? graph_.node(info.anchor).origin : graph_.value(id).name;
      const NodeId sum = append(graph_, OpKind::Add, {parts[0].gradient, parts[1].gradient}, {}, std::move(info));
      if (graph_.value(id).kind == ValueKind::parameter || is_per_step(id)) weight_sums_.insert(sum);
      const ValueId result = graph_.node(sum).outputs[0];
      if (parts[0].is_summed) graph_.node(sum).rate = graph_.value(result).rate = Rate::per_step;
      parts.erase(parts.begin());
      parts[0].gradient = result;
    }
  }

  // Few readers accumulate each for itself, so that of a weight read on two devices one gradient travels per step, not
  // one per micro-batch. Many (a recurrent weight, unrolled) share one accumulator: each costs the bytes of the weight.
  void sum_over_microbatches(ValueId id, std::vector<Contribution>& parts) {
    std::vector<Contribution> summed;
    std::vector<Contribution> each;
    for (const Contribution& part : parts) (part.is_summed ? summed : each).push_back(part);
    if (each.size() > kMostAccumulators) {
      add_up(id, each);
      each.front().reader = anchor_of(id);
    }
    for (const Contribution& part : each) summed.push_back({accumulate(id, part), part.reader, true});
    parts = std::move(summed);
  }

  // What sums products or elements in f32 need not round them, if nothing else reads the result.
  bool widen(ValueId gradient) {
    const ValueId made = before_reshape(gradient);
    Node& node = graph_.node(graph_.value(made).producer);
    if ((node.op != OpKind::Gemm && node.op != OpKind::ReduceSum) || node.attributes.has("to")) return false;
    if (node.op == OpKind::Gemm && node.inputs.size() > 2) return false;  // its addend is in 16 bits
    node.attributes.set("to", std::string("f32"));
    graph_.value(made).dtype = graph_.value(gradient).dtype = DType::f32;
    return true;
  }

  // What a Reshape gives has the elements of its operand.
  ValueId before_reshape(ValueId id) const {
    const Node& node = graph_.node(graph_.value(id).producer);
    return node.op == OpKind::Reshape ? node.inputs[0] : id;
  }

  // Gradients are summed in f32: of a parameter that is read in less (through a Cast), too.
  ValueId in_f32(ValueId id, const Contribution& part) {
    const DType dtype = graph_.value(part.gradient).dtype;
    const bool is_narrow = dtype == DType::bf16 || dtype == DType::f16;
    if (!is_narrow || graph_.value(id).kind != ValueKind::node) return part.gradient;
    if (part.is_own && widen(part.gradient)) return part.gradient;
    NodeInfo info;
    info.name = graph_.value(id).name + "/grad/f32";
    info.anchor = part.reader;
    info.origin = graph_.node(info.anchor).origin;
    info.phase = Phase::weight_grad;
    const NodeId cast = append(graph_, OpKind::Cast, {part.gradient}, {{"to", std::string("f32")}}, std::move(info));
    return graph_.node(cast).outputs[0];
  }

  // Sums over micro-batches of a narrow value are f32 (in_f32). A Cast takes that; other operators' rules know one
  // type.
  ValueId in_own_type(ValueId gradient, ValueId of) {
    const DType dtype = graph_.value(of).dtype;
    const NodeId producer = graph_.value(of).producer;
    const bool is_wider = gradient.is_valid() && graph_.value(gradient).dtype != dtype;
    if (!is_wider || graph_.node(producer).op == OpKind::Cast) return gradient;
    NodeInfo info;
    info.name = fmt::format("{}/grad/{}", graph_.value(of).name, dtype_name(dtype));
    info.anchor = producer;
    info.origin = graph_.node(producer).origin;
    info.phase = Phase::weight_grad;
    const NodeId cast =
        append(graph_, OpKind::Cast, {gradient}, {{"to", std::string(dtype_name(dtype))}}, std::move(info));
    const ValueId result = graph_.node(cast).outputs[0];
    graph_.node(cast).rate = graph_.value(result).rate = graph_.value(gradient).rate;
    return result;
  }

  ValueId accumulate(ValueId id, const Contribution& part) {
    const Value value = graph_.value(id);
    const ValueId gradient = in_f32(id, part);
    const ValueId accumulator =
        graph_.add_state("gradient/" + value.name, Literal::splat_number(graph_.value(gradient).dtype, value.shape, 0));
    NodeInfo info;
    info.name = value.name + "/grad/accumulate";
    info.anchor = part.reader;
    info.origin = graph_.node(info.anchor).origin;
    info.phase = Phase::weight_grad;
    const NodeId node = append(graph_, OpKind::GradAccumulate, {gradient, accumulator}, {}, std::move(info));
    // A gradient that is the same in every micro-batch (a constant) still is added once for each of them.
    graph_.node(node).rate = Rate::per_microbatch;
    const ValueId next = graph_.node(node).outputs[0];
    graph_.updates.push_back({accumulator, next});
    return next;
  }

  NodeId anchor_of(ValueId id) {
    const Value& value = graph_.value(id);
    return value.kind == ValueKind::node ? value.producer : first_reader_[id];
  }

  void differentiate_node(NodeId id) {
    if (op_def(graph_.node(id).op).differentiable != Differentiable::yes) return;
    const std::vector<ValueId> outputs = graph_.node(id).outputs;
    const std::vector<ValueId> inputs = graph_.node(id).inputs;
    std::vector<bool> needs;
    for (size_t k = 0; k < inputs.size(); ++k) needs.push_back(carries_gradient(graph_.node(id), k));
    if (std::ranges::find(needs, true) == needs.end()) return;
    std::vector<ValueId> output_grads;
    bool any = false;
    for (const ValueId output : outputs) {
      output_grads.push_back(output.is_valid() && needs_gradient(output) ? in_own_type(total(output), output)
                                                                         : ValueId{});
      any = any || output_grads.back().is_valid();
    }
    if (!any) return;
    GradientContext context(graph_, id, std::move(output_grads), needs, choices_);
    const int first_made = graph_.node_count();
    op_def(graph_.node(id).op).gradient(context);
    const bool is_summed =
        graph_.node(id).rate == Rate::per_step && graph_.value(graph_.loss).rate == Rate::per_microbatch;
    for (size_t k = 0; k < inputs.size(); ++k) {
      if (!needs[k]) continue;
      MPC_CHECK(context.input_grads()[k].is_valid(),
                "the gradient rule of " + describe(graph_.node(id)) + " gave none for input " + std::to_string(k));
      const ValueId gradient = context.input_grads()[k];
      const bool is_own = is_read_by(context.input_grads(), first_made, gradient);
      contributions_[inputs[k].index()].push_back({gradient, id, is_summed, is_own});
    }
  }

  // Did nodes from `first` on make the gradient, and is it, and what a Reshape made it of, read nowhere but once among
  // `gradients`?
  bool is_read_by(const std::vector<ValueId>& gradients, int first, ValueId gradient) const {
    const auto is_new = [&](ValueId id) {
      const Value& value = graph_.value(id);
      return value.kind == ValueKind::node && static_cast<int>(value.producer.index()) >= first;
    };
    if (!is_new(gradient)) return false;
    const ValueId made = before_reshape(gradient);
    if (!is_new(made)) return false;
    int64_t readers = std::ranges::count(gradients, gradient);
    if (made != gradient) readers += std::ranges::count(gradients, made) - 1;  // the Reshape
    for (int i = first; i < graph_.node_count(); ++i) {
      const std::vector<ValueId>& inputs = graph_.node(NodeId(i)).inputs;
      readers += std::ranges::count(inputs, gradient) + (made != gradient ? std::ranges::count(inputs, made) : 0);
    }
    return readers == 1;
  }

  void accumulate_parameter_gradients() {
    const int count = static_cast<int>(contributions_.size());
    for (int i = 0; i < count; ++i) {
      const ValueId id(i);
      if (graph_.value(id).kind != ValueKind::parameter || contributions_[id.index()].empty()) continue;
      ValueId gradient = total(id);
      if (!is_per_step(id)) gradient = accumulate(id, {gradient, anchor_of(id), false});
      graph_.gradients.push_back({id, gradient});
    }
  }

  // weight_grad: what sums a parameter's gradient, and what the node that reads the parameter makes for such sums
  // alone. The rest of the backward nodes are input_grad: the gradient of another node waits for them.
  void set_phases() {
    const auto users = users_of(graph_);
    for (int i = graph_.node_count() - 1; i >= forward_count_; --i) {
      Node& node = graph_.node(NodeId(i));
      const auto serves_weight = [&](NodeId id) {
        const Node& user = graph_.node(id);
        return sums_weight_grads(id) || (user.phase == Phase::weight_grad && user.anchor == node.anchor);
      };
      bool only_weight_grad = true;
      for (const ValueId output : node.outputs) {
        only_weight_grad =
            only_weight_grad && (!output.is_valid() || std::ranges::all_of(users[output.index()], serves_weight));
      }
      node.phase = sums_weight_grads(NodeId(i)) || only_weight_grad ? Phase::weight_grad : Phase::input_grad;
    }
  }

  bool sums_weight_grads(NodeId id) const {
    const Node& node = graph_.node(id);
    return node.op == OpKind::GradAccumulate || node.rate == Rate::per_step || weight_sums_.contains(id);
  }

  Graph graph_;
  ValueId seed_;  // invalid: 1
  ShapeChoices* choices_;
  int forward_count_;
  std::vector<bool> needs_;
  IdMap<ValueId, NodeId> first_reader_;
  std::set<NodeId> weight_sums_;  // of contributions to the gradient of a parameter, before its accumulator
  std::vector<std::vector<Contribution>> contributions_;
};

// @throws Error(M002) for a pattern without parameters: a misspelled one would train what was to be frozen.
Graph freeze(Graph graph, const std::string& pattern) {
  if (pattern.empty()) return graph;
  const std::string where = "--freeze " + pattern;
  std::string some_parameter;
  int frozen = 0;
  try {
    const std::regex regex(pattern);
    for (int i = 0; i < graph.value_count(); ++i) {
      Value& value = graph.value(ValueId(i));
      if (value.kind != ValueKind::parameter) continue;
      some_parameter = value.name;
      if (!std::regex_match(value.name, regex)) continue;
      value.trainable = false;
      ++frozen;
    }
  } catch (const std::regex_error& error) {
    throw Error(ErrorId::M003, where, std::string("is not a regular expression: ") + error.what());
  }
  if (frozen == 0) {
    throw Error(ErrorId::M002, where, "matches the whole name of no parameter",
                some_parameter.empty() ? "" : fmt::format("one is '{}'", some_parameter));
  }
  return graph;
}

}  // namespace

Graph differentiate(const Graph& graph, const DifferentiateOptions& options, ShapeChoices* choices) {
  MPC_CHECK(graph.loss.is_valid(), "differentiate needs a loss");
  return Differentiator(freeze(graph, options.frozen), options.seed, choices).run();
}

}  // namespace mpc
