#include "passes/row_mixing.h"

#include <algorithm>
#include <vector>

namespace mpc {
namespace {

class RowTracker {
 public:
  RowTracker(const Graph& some, const Graph& more)
      : some_(some), more_(more), lost_by_(static_cast<size_t>(some.value_count())) {}

  std::optional<NodeId> run(RowUse use) {
    for (int i = 0; i < some_.node_count(); ++i) {
      if (const std::optional<NodeId> found = visit(NodeId(i))) return found;
    }
    if (use == RowUse::training) return std::nullopt;
    for (const NamedValue& output : some_.outputs) {
      if (lost_by_[output.value.index()].is_valid()) return lost_by_[output.value.index()];
    }
    return std::nullopt;
  }

 private:
  bool is_row_axis(ValueId id, int axis) const { return some_.value(id).shape[axis] != more_.value(id).shape[axis]; }

  int row_axes(ValueId id) const {
    int count = 0;
    for (int axis = 0; axis < some_.value(id).shape.rank(); ++axis) count += is_row_axis(id, axis) ? 1 : 0;
    return count;
  }

  // Operators whose results have the shape of their operand, and mix what lies along some axes.
  bool mixes(const Node& node) const {
    const ValueId x = node.inputs[0];
    const int rank = some_.value(x).shape.rank();
    switch (node.op) {
      case OpKind::Softmax:
      case OpKind::LogSoftmax:
      case OpKind::CumSum:
        return is_row_axis(x, static_cast<int>(node.attributes.integer("axis")));
      case OpKind::LayerNormalization:
      case OpKind::RMSNormalization:
        for (int axis = static_cast<int>(node.attributes.integer("axis")); axis < rank; ++axis) {
          if (is_row_axis(x, axis)) return true;
        }
        return false;
      default:
        return false;
    }
  }

  std::optional<NodeId> visit(NodeId id) {
    const Node& node = some_.node(id);
    int most_axes = 0;
    NodeId lost_by;
    for (const ValueId input : node.inputs) {
      if (!input.is_valid()) continue;
      most_axes = std::max(most_axes, row_axes(input));
      if (lost_by_[input.index()].is_valid()) lost_by = lost_by_[input.index()];
    }
    if (most_axes > 0 && mixes(node)) return id;
    for (const ValueId output : node.outputs) {
      if (!output.is_valid()) continue;
      const int axes = row_axes(output);
      if (axes > 0 && lost_by.is_valid()) return lost_by;
      if (most_axes > 0 && axes > most_axes) return id;  // every row beside every other one
      if (axes == 0) lost_by_[output.index()] = most_axes > 0 ? id : lost_by;
    }
    return std::nullopt;
  }

  const Graph& some_;
  const Graph& more_;
  std::vector<NodeId> lost_by_;  // [value] without rows: the node that made it of rows
};

}  // namespace

std::optional<NodeId> node_across_rows(const Graph& some, const Graph& more, RowUse use) {
  return RowTracker(some, more).run(use);
}

}  // namespace mpc
