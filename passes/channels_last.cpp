#include "passes/channels_last.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compiler/base/channels_last.h"
#include "compiler/base/elementwise_program.h"
#include "compiler/ir/rewriter.h"
#include "compiler/ops/builder.h"

namespace mpc {
namespace {

constexpr int kRank = 4;  // of images

/// How an operator reads images.
enum class Follows : uint8_t {
  no,
  with_attribute,  // convolutions and pools
  as_rows,         // batch normalization
  reduced,
  along_axis,  // Concat, Split
  elementwise,
};

struct Reader {
  OpKind op;
  Follows how;
  size_t images;  // so many of the first operands
};

constexpr Reader kReaders[] = {
    {OpKind::Conv, Follows::with_attribute, 2},
    {OpKind::ConvInputGrad, Follows::with_attribute, 2},
    {OpKind::ConvWeightGrad, Follows::with_attribute, 2},
    {OpKind::MaxPool, Follows::with_attribute, 1},
    {OpKind::MaxPoolGrad, Follows::with_attribute, 3},
    {OpKind::AveragePool, Follows::with_attribute, 1},
    {OpKind::AveragePoolGrad, Follows::with_attribute, 1},
    {OpKind::BatchNormalization, Follows::as_rows, 1},
    {OpKind::BatchNormalizationTraining, Follows::as_rows, 1},
    {OpKind::BatchNormalizationGrad, Follows::as_rows, 2},
    {OpKind::ReduceMax, Follows::reduced, 1},
    {OpKind::ReduceMean, Follows::reduced, 1},
    {OpKind::ReduceMin, Follows::reduced, 1},
    {OpKind::ReduceSum, Follows::reduced, 1},
    {OpKind::Concat, Follows::along_axis, SIZE_MAX},
    {OpKind::Split, Follows::along_axis, 1},
};

Reader reader(OpKind op) {
  const auto found = std::ranges::find(kReaders, op, &Reader::op);
  if (found != std::end(kReaders)) return *found;
  const bool is_elementwise = op == OpKind::Elementwise || can_be_step(op);
  return {op, is_elementwise ? Follows::elementwise : Follows::no, SIZE_MAX};
}

bool is_convolution(OpKind op) {
  return op == OpKind::Conv || op == OpKind::ConvInputGrad || op == OpKind::ConvWeightGrad;
}

/// Where axis `axis` of (N, C, H, W) is in (N, H, W, C).
int64_t moved_axis(int64_t axis) {
  if (axis == 0) return 0;
  return axis == 1 ? kRank - 1 : axis - 1;
}

/// (C, 1, 1), which a row takes the place of.
bool is_column_of_channels(const Shape& shape) {
  return shape.rank() == kRank - 1 && shape[1] == 1 && shape[2] == 1;
}

/// Do all dimensions but one of those that move have one element?
bool moves_ones_only(const Shape& shape) {
  return shape[1] == 1 || shape.elements(2, kRank) == 1;
}

/// What the graph of the larger micro-batches decides. Ids hold for every size.
class Layouts {
 public:
  Layouts(const Graph& graph, const Cluster& cluster) : graph_(graph), cluster_(cluster) {
    is_last_.assign(static_cast<size_t>(graph.node_count()), false);
    const std::vector<bool> none(static_cast<size_t>(graph.value_count()), false);
    made_last_ = wants_first_ = wants_last_ = none;
    for (int i = 0; i < graph.node_count(); ++i) decide(NodeId(i));
    for (int i = 0; i < graph.node_count(); ++i) find_wishes(NodeId(i));
    for (const NamedValue& output : graph.outputs) wants_first_[output.value.index()] = true;
    if (graph.loss.is_valid()) wants_first_[graph.loss.index()] = true;
    for (const Update& update : graph.updates) wants_first_[update.next.index()] = true;
    for (const ParameterGradient& gradient : graph.gradients) wants_first_[gradient.gradient.index()] = true;
  }

  /// Does any node?
  bool any_is_last() const { return std::ranges::find(is_last_, true) != is_last_.end(); }
  /// Does the node read and write images with channels last?
  bool is_last(NodeId id) const { return is_last_[id.index()]; }
  /// Is the value made with channels last?
  bool is_made_last(ValueId id) const { return made_last_[id.index()]; }
  /// Is it read in the other order than it is made in?
  bool wants_other(ValueId id) const {
    return is_made_last(id) ? wants_first_[id.index()] : static_cast<bool>(wants_last_[id.index()]);
  }
  bool moves_ones_only(ValueId id) const { return mpc::moves_ones_only(graph_.value(id).shape); }
  /// Is operand `i` of the node, which is_last, one that it reads with channels last?
  bool is_image(NodeId id, size_t i) const {
    const Node& node = graph_.node(id);
    return node.inputs[i].is_valid() && i < reader(node.op).images && shape_of(node.inputs[i]).rank() == kRank;
  }

 private:
  const Shape& shape_of(ValueId id) const { return graph_.value(id).shape; }

  void decide(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.op == OpKind::Transfer) {
      for (size_t i = 0; i < node.inputs.size(); ++i)
        made_last_[node.outputs[i].index()] = made_last_[node.inputs[i].index()];
      return;
    }
    const Device& device = cluster_.devices[node.device.index()];
    if (device.backend != "cuda" || !follows(node, device)) return;
    is_last_[id.index()] = true;
    for (const ValueId output : node.outputs) {
      if (output.is_valid() && shape_of(output).rank() == kRank) made_last_[output.index()] = true;
    }
  }

  bool follows(const Node& node, const Device& device) const {
    const Reader how = reader(node.op);
    if (how.how == Follows::no) return false;
    if (is_convolution(node.op)) return is_on_tensor_cores(node, device);
    const auto is_last_image = [&](size_t i) {
      return i < how.images && node.inputs[i].is_valid() && is_made_last(node.inputs[i]);
    };
    bool any = false;
    for (size_t i = 0; i < node.inputs.size(); ++i) any = any || is_last_image(i);
    if (!any) return false;
    switch (how.how) {
      case Follows::reduced:
        return keeps_order(node);
      case Follows::elementwise:
        return is_by_elements(node);
      case Follows::with_attribute:
        return node.op != OpKind::MaxPool || node.outputs.size() == 1;  // its indices are of channels first
      default:
        return true;
    }
  }

  bool is_on_tensor_cores(const Node& node, const Device& device) const {
    const DType dtype = graph_.value(node.inputs[0]).dtype;
    const bool is_rounded =
        dtype == DType::bf16 || dtype == DType::f16 || (dtype == DType::f32 && device.rounds_to_tf32);
    return is_rounded && shape_of(node.inputs[0]).rank() == kRank;
  }

  // What is left of the dimensions is images, or in the same order wherever the channels are.
  bool keeps_order(const Node& node) const {
    const std::vector<int64_t>& axes = node.attributes.integers("axes");
    const auto is_left = [&](int64_t axis) { return !std::ranges::binary_search(axes, axis); };
    return node.attributes.flag("keepdims") || !is_left(1) || (!is_left(2) && !is_left(3));
  }

  bool is_by_elements(const Node& node) const {
    // Gradients of weights are summed as the weight is stored.
    if (node.phase == Phase::weight_grad || shape_of(node.outputs[0]).rank() != kRank) return false;
    return std::ranges::all_of(node.inputs, [&](ValueId input) {
      if (!input.is_valid()) return true;
      const Shape& shape = shape_of(input);
      return shape.rank() == kRank || shape.elements() == 1 || is_column_of_channels(shape);
    });
  }

  void find_wishes(NodeId id) {
    const Node& node = graph_.node(id);
    if (node.op == OpKind::Transfer) return;  // takes what there is
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId input = node.inputs[i];
      if (!input.is_valid()) continue;
      (is_last(id) && is_image(id, i) ? wants_last_ : wants_first_)[input.index()] = true;
    }
  }

  const Graph& graph_;
  const Cluster& cluster_;
  std::vector<bool> is_last_;    // by node
  std::vector<bool> made_last_;  // by value, as are these
  std::vector<bool> wants_first_;
  std::vector<bool> wants_last_;
};

class Writer {
 public:
  Writer(const Graph& graph, const Layouts& layouts) : source_(graph), layouts_(layouts), rewriter_(graph) {}

  Graph run() {
    for (int i = 0; i < source_.node_count(); ++i) {
      const NodeId id(i);
      if (source_.node(id).op == OpKind::Transfer) {
        write_transfer(id);
      } else if (layouts_.is_last(id)) {
        write(id);
      } else {
        rewriter_.copy(id);
      }
      for (const ValueId output : source_.node(id).outputs) {
        if (output.is_valid() && layouts_.wants_other(output)) make_other(output, id);
      }
    }
    return rewriter_.finish(source_.stage);
  }

 private:
  // A value with channels last; of what no node makes, one for each device that reads it.
  using Key = std::pair<ValueId, DeviceId>;

  Key key_of(ValueId id, NodeId reader) const {
    const bool is_made = source_.value(id).kind == ValueKind::node;
    return {id, is_made ? DeviceId{} : source_.node(reader).device};
  }

  /// Appends a node that makes one value of another, beside `like`: of its device, phase and anchor.
  ValueId add(NodeId like, OpKind op, ValueId input, Attributes attributes, const std::string& name, Rate rate) {
    Graph& graph = rewriter_.graph();
    const Node& node = source_.node(like);
    NodeInfo info;
    info.name = graph.unique_node_name(name);
    info.origin = node.origin;
    info.phase = node.phase;
    info.anchor = node.anchor.is_valid() ? rewriter_.node_at(node.anchor) : node.anchor;
    info.output_names = {graph.unique_value_name(name)};
    const NodeId made = append(graph, op, {input}, std::move(attributes), std::move(info));
    graph.node(made).device = node.device;
    graph.node(made).rate = rate;
    const ValueId result = graph.node(made).outputs[0];
    graph.value(result).rate = rate;
    return result;
  }

  ValueId reshaped(NodeId like, ValueId input, const Shape& shape, const std::string& name) {
    const Rate rate = rewriter_.graph().value(input).rate;
    return add(like, OpKind::Reshape, input, {{"shape", shape.to_vector()}, {"allowzero", int64_t{1}}}, name, rate);
  }

  ValueId transposed(NodeId like, ValueId input, ValueId source, bool to_last) {
    const Value value = rewriter_.graph().value(input);
    const std::string name = source_.value(source).name + (to_last ? "/channels_last" : "/channels_first");
    const std::vector<int64_t> perm = to_last ? to_channels_last(kRank) : to_channels_first(kRank);
    const Shape shape = to_last ? with_channels_last(value.shape) : source_.value(source).shape;
    if (layouts_.moves_ones_only(source)) return reshaped(like, input, shape, name);
    return add(like, OpKind::Transpose, input, {{"perm", perm}}, name, value.rate);
  }

  void make_other(ValueId id, NodeId maker) {
    if (layouts_.is_made_last(id)) {
      rewriter_.map(id, transposed(maker, last_.at({id, DeviceId{}}), id, false));
    } else {
      last_[{id, DeviceId{}}] = transposed(maker, rewriter_.at(id), id, true);
    }
  }

  // The operand as a node that is_last reads it.
  ValueId operand(NodeId id, size_t i) {
    const ValueId input = source_.node(id).inputs[i];
    if (!input.is_valid()) return input;
    if (layouts_.is_image(id, i)) {
      const auto [found, is_new] = last_.try_emplace(key_of(input, id));
      if (is_new) found->second = transposed(id, rewriter_.at(input), input, true);
      return found->second;
    }
    const Shape& shape = source_.value(input).shape;
    const bool is_column = reader(source_.node(id).op).how == Follows::elementwise && is_column_of_channels(shape);
    if (!is_column || shape.elements() == 1) return rewriter_.at(input);
    const auto [found, is_new] = rows_.try_emplace(key_of(input, id));
    if (is_new)
      found->second = reshaped(id, rewriter_.at(input), Shape{shape[0]}, source_.value(input).name + "/channels");
    return found->second;
  }

  Attributes attributes_of(const Node& node) const {
    Attributes attributes = node.attributes;
    switch (reader(node.op).how) {
      case Follows::with_attribute:
        attributes.set(kChannelsLast, int64_t{1});
        if (attributes.has("shape")) {
          attributes.set("shape", with_channels_last(Shape(node.attributes.integers("shape"))).to_vector());
        }
        break;
      case Follows::reduced: {
        std::vector<int64_t> axes;
        for (const int64_t axis : node.attributes.integers("axes")) axes.push_back(moved_axis(axis));
        std::ranges::sort(axes);
        attributes.set("axes", std::move(axes));
        break;
      }
      case Follows::along_axis:
        attributes.set("axis", moved_axis(node.attributes.integer("axis")));
        break;
      default:
        break;
    }
    return attributes;
  }

  void write(NodeId id) {
    const Node& node = source_.node(id);
    const bool is_of_rows = reader(node.op).how == Follows::as_rows;
    std::vector<ValueId> inputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      inputs.push_back(operand(id, i));
      if (!is_of_rows || !layouts_.is_image(id, i)) continue;
      const Shape shape = rewriter_.graph().value(inputs[i]).shape;
      const Shape rows{shape.elements(0, kRank - 1), shape[kRank - 1]};
      inputs[i] = reshaped(id, inputs[i], rows, source_.value(node.inputs[i]).name + "/rows");
    }
    Graph& graph = rewriter_.graph();
    NodeInfo info;
    info.name = node.name;
    info.origin = node.origin;
    info.phase = node.phase;
    info.anchor = node.anchor.is_valid() ? rewriter_.node_at(node.anchor) : node.anchor;
    for (const ValueId output : node.outputs) {
      const bool is_rows = output.is_valid() && is_of_rows && layouts_.is_made_last(output);
      const std::string name = output.is_valid() ? source_.value(output).name : "";
      info.output_names.push_back(is_rows ? graph.unique_value_name(name + "/rows") : name);
    }
    const NodeId made = append(graph, node.op, std::move(inputs), attributes_of(node), std::move(info));
    graph.node(made).device = node.device;
    graph.node(made).rate = node.rate;
    rewriter_.map_node(id, made);
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId output = node.outputs[i];
      if (!output.is_valid()) continue;
      ValueId result = graph.node(made).outputs[i];
      graph.value(result).rate = source_.value(output).rate;
      if (!layouts_.is_made_last(output)) {
        rewriter_.map(output, result);
        continue;
      }
      if (is_of_rows)
        result = reshaped(id, result, with_channels_last(source_.value(output).shape), source_.value(output).name);
      last_[{output, DeviceId{}}] = result;
    }
  }

  void write_transfer(NodeId id) {
    const Node& node = source_.node(id);
    Node copy = node;
    std::vector<Graph::OutputType> outputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId input = node.inputs[i];
      copy.inputs[i] = layouts_.is_made_last(input) ? last_.at({input, DeviceId{}}) : rewriter_.at(input);
      const Value& sent = rewriter_.graph().value(copy.inputs[i]);
      const Value& output = source_.value(node.outputs[i]);
      outputs.push_back({output.name, output.dtype, sent.shape, output.rate});
    }
    copy.outputs.clear();
    if (copy.anchor.is_valid()) copy.anchor = rewriter_.node_at(copy.anchor);
    const NodeId made = rewriter_.graph().add_node(std::move(copy), std::move(outputs));
    rewriter_.map_node(id, made);
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId result = rewriter_.graph().node(made).outputs[i];
      if (layouts_.is_made_last(node.outputs[i])) {
        last_[{node.outputs[i], DeviceId{}}] = result;
      } else {
        rewriter_.map(node.outputs[i], result);
      }
    }
  }

  const Graph& source_;
  const Layouts& layouts_;
  Rewriter rewriter_;
  std::map<Key, ValueId> last_;  // images with channels last
  std::map<Key, ValueId> rows_;  // (C) of (C, 1, 1)
};

}  // namespace

Graph channels_last(Graph graph, const Cluster& cluster) {
  const Layouts layouts(graph, cluster);
  return layouts.any_is_last() ? Writer(graph, layouts).run() : std::move(graph);
}

Graph channels_last(Graph graph, const Graph& main, const Cluster& cluster) {
  const Layouts layouts(main, cluster);
  return layouts.any_is_last() ? Writer(graph, layouts).run() : std::move(graph);
}

}  // namespace mpc
