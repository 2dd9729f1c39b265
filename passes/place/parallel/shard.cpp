#include "passes/place/parallel/shard.h"

#include <algorithm>
#include <optional>

namespace mpc::place {
namespace {

constexpr int kWhole = -1;
constexpr double kStatisticsOfRow = 3;  // numbers per row that a softmax or cross-entropy exchanges

class Sharder {
 public:
  Sharder(const Graph& graph, int degree) : graph_(graph), degree_(degree) {
    axis_.assign(static_cast<size_t>(graph.value_count()), kWhole);
    is_entered_.assign(axis_.size(), 0);
    result_.nodes.resize(static_cast<size_t>(graph.node_count()));
  }

  Sharding run() {
    for (int n = 0; n < graph_.node_count(); ++n) {
      const Node& node = graph_.node(NodeId(n));
      if (node.phase != Phase::forward) continue;
      share_ = &result_.nodes[static_cast<size_t>(n)];
      // What is made of weights alone is a weight, divided as its reader wants it.
      if (node.rate == Rate::per_step) continue;
      visit(node);
    }
    for (const int axis : axis_) result_.is_value_divided.push_back(axis != kWhole);
    return std::move(result_);
  }

 private:
  const Value& value(ValueId id) const { return graph_.value(id); }
  int axis_of(ValueId id) const { return id.is_valid() ? axis_[id.index()] : kWhole; }
  double bytes_of(ValueId id) const { return static_cast<double>(value(id).bytes()); }
  bool is_weight(ValueId id) const { return value(id).rate == Rate::per_step && value(id).kind != ValueKind::input; }
  int rank_of(ValueId id) const { return value(id).shape.rank(); }
  int64_t dim(ValueId id, int axis) const { return value(id).shape[axis]; }

  void put(ValueId output, int axis) {
    axis_[output.index()] = axis;
    share_->is_divided = true;
  }

  /// Every device takes the whole value: the parts are gathered, once however many nodes read it.
  void gather(ValueId id) {
    if (axis_of(id) == kWhole) return;
    share_->reduced_forward += bytes_of(id) / 2;  // gathering moves half of what summing up does
    axis_[id.index()] = kWhole;
  }

  /// The gradients of a whole value that divided nodes read are summed up over the devices, once for all of them.
  void enter(ValueId id) {
    if (is_entered_[id.index()] != 0 || value(id).kind == ValueKind::input) return;
    is_entered_[id.index()] = 1;
    share_->reduced_backward += bytes_of(id);
  }

  void visit(const Node& node) {
    switch (node.op) {
      case OpKind::MatMul:
      case OpKind::Gemm:
        return product(node);
      case OpKind::Gather:
        return lookup(node);
      case OpKind::Transpose:
        return transpose(node);
      case OpKind::Reshape:
        return reshape(node);
      case OpKind::Softmax:
      case OpKind::LogSoftmax:
        return softmax(node);
      case OpKind::SoftmaxCrossEntropyLoss:
        return cross_entropy(node);
      default:
        return op_share(node.op) == Share::kElementwise || is_comparison(node) ? elementwise(node) : whole(node);
    }
  }

  /// Results of another type than the operands', element by element all the same.
  bool is_comparison(const Node& node) const {
    return node.op == OpKind::Where || node.op == OpKind::Cast || node.op == OpKind::Less ||
           node.op == OpKind::Greater || node.op == OpKind::LessOrEqual || node.op == OpKind::GreaterOrEqual ||
           node.op == OpKind::Equal;
  }

  void whole(const Node& node) {
    for (const ValueId input : node.inputs) {
      if (input.is_valid()) gather(input);
    }
  }

  void product(const Node& node) {
    product_alone(node);
    // What a fused product adds, beside a row: each device reads its part of it, or all of them the whole.
    const ValueId out = node.outputs[0];
    const ValueId added = node.inputs.size() > 3 ? node.inputs[3] : ValueId{};
    if (!added.is_valid() || axis_of(added) == axis_of(out)) return;
    gather(added);
    if (axis_of(out) != kWhole && !is_weight(added)) enter(added);
  }

  void product_alone(const Node& node) {
    const ValueId a = node.inputs[0];
    const ValueId b = node.inputs[1];
    const ValueId out = node.outputs[0];
    const int last = rank_of(out) - 1;
    if (node.attributes.has("transA") && node.attributes.flag("transA")) return whole(node);
    if (is_weight(b) && rank_of(b) == 2 && rank_of(a) >= 2) {
      if (axis_of(a) == rank_of(a) - 1) {  // its rows
        share_->is_divided = true;
        share_->reduced_forward += bytes_of(out);
        return;
      }
      if (axis_of(a) != kWhole) return put(out, axis_of(a));
      if (dim(out, last) < degree_) return;
      enter(a);
      return put(out, last);
    }
    // Two activations: divided along a dimension that both have and neither sums over.
    const int axis = axis_of(a);
    const bool is_batch = axis != kWhole && axis == axis_of(b) && rank_of(a) == rank_of(b) && axis < last - 1;
    if (is_batch) return put(out, axis);
    whole(node);
  }

  void lookup(const Node& node) {
    const ValueId table = node.inputs[0];
    const int64_t axis = node.attributes.integer("axis");
    if (!is_weight(table) || axis != 0 || dim(table, 0) < degree_) return whole(node);
    share_->is_divided = true;  // rows of others are zeros
    share_->reduced_forward += bytes_of(node.outputs[0]);
  }

  void transpose(const Node& node) {
    const int axis = axis_of(node.inputs[0]);
    if (axis == kWhole) return;
    const std::vector<int64_t>& permutation = node.attributes.integers("perm");
    const auto at = std::find(permutation.begin(), permutation.end(), axis) - permutation.begin();
    put(node.outputs[0], static_cast<int>(at));
  }

  /// A divided dimension stays one if a dimension of the result begins where it does and can be divided as well.
  void reshape(const Node& node) {
    const ValueId in = node.inputs[0];
    const ValueId out = node.outputs[0];
    if (axis_of(in) == kWhole) return;
    int64_t before = 1;
    for (int i = 0; i < axis_of(in); ++i) before *= dim(in, i);
    int64_t product = 1;
    for (int i = 0; i < rank_of(out); ++i) {
      if (product == before && dim(out, i) % degree_ == 0) return put(out, i);
      product *= dim(out, i);
    }
    whole(node);
  }

  void elementwise(const Node& node) {
    const ValueId out = node.outputs[0];
    int axis = kWhole;  // of the result
    for (const ValueId input : node.inputs) {
      if (axis_of(input) == kWhole) continue;
      const int here = axis_of(input) + rank_of(out) - rank_of(input);
      if (axis != kWhole && axis != here) return whole(node);
      axis = here;
    }
    if (axis == kWhole) return;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid() || axis_of(input) != kWhole || is_weight(input)) continue;
      const int here = axis - rank_of(out) + rank_of(input);
      if (here >= 0 && dim(input, here) > 1) enter(input);  // each device reads its part
    }
    put(out, axis);
    for (const ValueId output : node.outputs) {
      if (output.is_valid() && output != out) axis_[output.index()] = axis;
    }
  }

  double rows_of(ValueId id, int axis) const {
    return static_cast<double>(value(id).shape.elements()) / static_cast<double>(std::max<int64_t>(1, dim(id, axis)));
  }

  void softmax(const Node& node) {
    const ValueId in = node.inputs[0];
    if (axis_of(in) == kWhole) return;
    const int64_t axis = node.attributes.integer("axis");
    const bool is_over = (axis < 0 ? axis + rank_of(in) : axis) == axis_of(in);
    if (is_over) {
      const double bytes = rows_of(in, axis_of(in)) * static_cast<double>(dtype_bytes(value(in).dtype));
      share_->reduced_forward += kStatisticsOfRow * bytes;
      share_->reduced_backward += bytes;
    }
    put(node.outputs[0], axis_of(in));
  }

  void cross_entropy(const Node& node) {
    const ValueId scores = node.inputs[0];
    constexpr int kClasses = 1;
    if (axis_of(scores) != kClasses) return whole(node);
    share_->is_divided = true;
    share_->reduced_forward +=
        kStatisticsOfRow * rows_of(scores, kClasses) * static_cast<double>(dtype_bytes(value(scores).dtype));
  }

  const Graph& graph_;
  int degree_;
  std::vector<int> axis_;         // [value]: the dimension that is divided, or kWhole
  std::vector<char> is_entered_;  // [value]
  Sharding::NodeShare* share_ = nullptr;
  Sharding result_;
};

}  // namespace

Sharding shard(const Graph& graph, int degree) {
  if (degree == 1) {
    Sharding whole;
    whole.nodes.resize(static_cast<size_t>(graph.node_count()));
    whole.is_value_divided.assign(static_cast<size_t>(graph.value_count()), 0);
    return whole;
  }
  return Sharder(graph, degree).run();
}

}  // namespace mpc::place
