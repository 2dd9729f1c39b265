#include "compiler/onnx/constant_indices.h"

#include <fmt/format.h>

namespace mpc::onnx_io {
namespace {

void check_range(const OnnxNode& node, const Literal& literal, int64_t low, int64_t high,
                 std::optional<int64_t> ignored = {}) {
  const int64_t count =
      literal.is_splat() ? std::min<int64_t>(1, literal.shape().elements()) : literal.shape().elements();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = literal.integer(i);
    if (index >= low && index < high) continue;
    if (ignored && index == *ignored) continue;
    node.fail(ErrorId::M033, fmt::format("index {} is {}, outside {}..{}", i, index, low, high - 1));
  }
}

/// GatherND and ScatterND: the last dimension of the indices is a coordinate of the data.
void check_coordinates(const OnnxNode& node, const Literal& indices, const Shape& data, int64_t batch_dims) {
  const int rank = indices.shape().rank();
  if (rank == 0) return;  // inference refuses it
  const int64_t depth = indices.shape()[rank - 1];
  if (depth < 1 || batch_dims < 0 || batch_dims > data.rank() || depth > data.rank() - batch_dims) return;
  for (int64_t i = 0; i < indices.shape().elements(); ++i) {
    const int64_t dim = data[static_cast<int>(batch_dims + i % depth)];
    const int64_t index = indices.integer(i);
    if (index < -dim || index >= dim)
      node.fail(ErrorId::M033, fmt::format("index {} is {}, outside {}..{}", i, index, -dim, dim - 1));
  }
}

}  // namespace

void check_constant_indices(const Importer& importer, const OnnxNode& node, OpKind op, const std::vector<Slot>& inputs,
                            const Attributes& attributes) {
  if (inputs.size() < 2 || inputs[0] == kAbsent || inputs[1] == kAbsent) return;
  const auto& indices = importer.known(inputs[1]);
  if (!indices || !is_integer(indices->dtype())) return;
  const Shape& data = importer.type(inputs[0]).shape;
  const auto integer = [&](std::string_view name, int64_t otherwise) {
    return attributes.has(name) ? attributes.integer(name) : otherwise;
  };
  switch (op) {
    case OpKind::Gather:
    case OpKind::GatherElements:
    case OpKind::ScatterElements:
      if (const auto axis = normalize_axis(integer("axis", 0), data.rank()))
        check_range(node, *indices, -data[*axis], data[*axis]);
      return;
    case OpKind::GatherND:
      return check_coordinates(node, *indices, data, integer("batch_dims", 0));
    case OpKind::ScatterND:
      return check_coordinates(node, *indices, data, 0);
    case OpKind::NegativeLogLikelihoodLoss:
    case OpKind::SoftmaxCrossEntropyLoss: {
      std::optional<int64_t> ignored;
      if (attributes.has("ignore_index")) ignored = attributes.integer("ignore_index");
      if (data.rank() >= 2) check_range(node, *indices, 0, data[1], ignored);
      return;
    }
    default:
      return;
  }
}

}  // namespace mpc::onnx_io
