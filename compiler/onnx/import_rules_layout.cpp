#include <algorithm>

#include <fmt/format.h>

#include "compiler/onnx/import_rules.h"

// Ops that change the shape or the order of tensors.

namespace mpc::onnx_io::rules {
namespace {

/// The axes of Squeeze and Unsqueeze, an attribute before opset 13; nothing when they are not given.
std::optional<std::vector<int64_t>> axes_of(const Importer& importer, const OnnxNode& node) {
  if (node.attributes.has("axes")) return node.attributes.integers("axes");
  if (!node.has_input(1)) return std::nullopt;
  const Literal literal = importer.require_content(node, 1, "axes");
  if (!is_integer(literal.dtype()) || literal.shape().rank() > 1)
    node.fail(ErrorId::M030, fmt::format("input 1 ('axes') is {}, a list of i64 is needed",
                                         type_text(literal.dtype(), literal.shape())));
  return literal.to_integers();
}

/// The axes as a set of positions in [0, rank).
std::vector<bool> axis_set(const OnnxNode& node, const std::vector<int64_t>& axes, int rank) {
  std::vector<bool> set(static_cast<size_t>(rank), false);
  for (const int64_t axis : axes) {
    const auto position = normalize_axis(axis, rank);
    if (!position) node.fail(ErrorId::M031, fmt::format("axis {} is out of range for rank {}", axis, rank));
    if (set[static_cast<size_t>(*position)]) node.fail(ErrorId::M031, fmt::format("axis {} is there twice", axis));
    set[static_cast<size_t>(*position)] = true;
  }
  return set;
}

void bind_reshape(Importer& importer, const OnnxNode& node, const std::vector<int64_t>& shape) {
  importer.emit_results(node, OpKind::Reshape, {node.inputs.at(0)}, {{"shape", shape}, {"allowzero", int64_t{1}}});
}

int64_t block_size(const Importer& importer, const OnnxNode& node) {
  const int64_t block = node.integer("blocksize", 0);
  if (block < 1) node.fail(ErrorId::M031, fmt::format("blocksize is {}, it must be > 0", block));
  const Shape& shape = importer.type(node.inputs.at(0)).shape;
  if (shape.rank() != 4)
    node.fail(ErrorId::M032, fmt::format("input 0 has shape {}, rank 4 is needed", to_string(shape)));
  return block;
}

/// An operand of Resize that is there but has no elements is absent.
void drop_empty_operands(const Importer& importer, OnnxNode& node) {
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    if (node.inputs[i] != kAbsent && importer.type(node.inputs[i]).shape.elements() == 0) node.inputs[i] = kAbsent;
  }
}

}  // namespace

void reshape(Importer& importer, OnnxNode& node) {
  importer.import_plain(node, OpKind::Reshape);
}  // opset 1: `shape` is an attribute already

void squeeze(Importer& importer, OnnxNode& node) {
  const Shape& from = importer.type(node.inputs.at(0)).shape;
  const auto axes = axes_of(importer, node);
  std::vector<int64_t> shape;
  const std::vector<bool> squeezed = axis_set(node, axes.value_or(std::vector<int64_t>{}), from.rank());
  for (int i = 0; i < from.rank(); ++i) {
    const bool is_squeezed = axes ? squeezed[static_cast<size_t>(i)] : from[i] == 1;
    if (is_squeezed && from[i] != 1)
      node.fail(ErrorId::M032, fmt::format("axis {} of shape {} is not 1", i, to_string(from)));
    if (!is_squeezed) shape.push_back(from[i]);
  }
  bind_reshape(importer, node, shape);
}

void unsqueeze(Importer& importer, OnnxNode& node) {
  const Shape& from = importer.type(node.inputs.at(0)).shape;
  const auto axes = axes_of(importer, node);
  if (!axes) node.fail(ErrorId::M031, "'axes' is required");
  if (axes->size() + static_cast<size_t>(from.rank()) > kMaxRank)
    node.fail(ErrorId::M046, fmt::format("the result would have rank {}, at most {} is supported",
                                         axes->size() + static_cast<size_t>(from.rank()), kMaxRank));
  const int rank = from.rank() + static_cast<int>(axes->size());
  const std::vector<bool> is_new = axis_set(node, *axes, rank);
  std::vector<int64_t> shape;
  for (int i = 0, next = 0; i < rank; ++i) shape.push_back(is_new[static_cast<size_t>(i)] ? 1 : from[next++]);
  bind_reshape(importer, node, shape);
}

void flatten(Importer& importer, OnnxNode& node) {
  const Shape& from = importer.type(node.inputs.at(0)).shape;
  const int64_t axis = node.integer("axis", 1);
  if (axis < -from.rank() || axis > from.rank())
    node.fail(ErrorId::M031, fmt::format("axis {} is out of range for rank {}", axis, from.rank()));
  const int split_at = static_cast<int>(axis < 0 ? axis + from.rank() : axis);
  bind_reshape(importer, node, {from.elements(0, split_at), from.elements(split_at, from.rank())});
}

void depth_to_space(Importer& importer, OnnxNode& node) {
  const int64_t b = block_size(importer, node);
  const Shape s = importer.type(node.inputs[0]).shape;  // (N, C, H, W)
  if (b > s[1] || s[1] % (b * b) != 0)
    node.fail(ErrorId::M032, fmt::format("{} channels cannot be divided by blocksize {} squared", s[1], b));
  const std::string mode = node.text("mode", "DCR");
  if (mode != "DCR" && mode != "CRD")
    node.fail(ErrorId::M031, fmt::format("mode is '{}', it must be DCR or CRD", escaped(mode, 60)));
  const int64_t c = s[1] / (b * b);
  const bool depth_first = mode == "DCR";
  const std::vector<int64_t> blocks =
      depth_first ? std::vector<int64_t>{s[0], b, b, c, s[2], s[3]} : std::vector<int64_t>{s[0], c, b, b, s[2], s[3]};
  const std::vector<int64_t> order =
      depth_first ? std::vector<int64_t>{0, 3, 4, 1, 5, 2} : std::vector<int64_t>{0, 1, 4, 2, 5, 3};
  const Slot split = importer.reshape(node, node.inputs[0], blocks, "blocks");
  const Slot moved = importer.emit(node, OpKind::Transpose, {split}, {{"perm", order}}, "transpose");
  importer.emit_results(node, OpKind::Reshape, {moved},
                        {{"shape", std::vector<int64_t>{s[0], c, s[2] * b, s[3] * b}}, {"allowzero", int64_t{1}}});
}

void space_to_depth(Importer& importer, OnnxNode& node) {
  const int64_t b = block_size(importer, node);
  const Shape s = importer.type(node.inputs[0]).shape;  // (N, C, H, W)
  if (s[2] % b != 0 || s[3] % b != 0)
    node.fail(ErrorId::M032, fmt::format("height {} and width {} cannot be divided by blocksize {}", s[2], s[3], b));
  const Slot split = importer.reshape(node, node.inputs[0], {s[0], s[1], s[2] / b, b, s[3] / b, b}, "blocks");
  const Slot moved =
      importer.emit(node, OpKind::Transpose, {split}, {{"perm", std::vector<int64_t>{0, 3, 5, 1, 2, 4}}}, "transpose");
  // elements() of a checked shape cannot overflow: the result has as many as the operand.
  const int64_t channels = s.elements() == 0 ? 0 : s[1] * b * b;
  importer.emit_results(
      node, OpKind::Reshape, {moved},
      {{"shape", std::vector<int64_t>{s[0], channels, s[2] / b, s[3] / b}}, {"allowzero", int64_t{1}}});
}

void concat(Importer& importer, OnnxNode& node) {
  if (!node.attributes.has("axis") && node.opset() < 4) node.attributes.set("axis", int64_t{1});
  importer.import_plain(node, OpKind::Concat);
}

void split(Importer& importer, OnnxNode& node) {
  // Before opset 18 the number of results alone said into how many parts; now num_outputs does.
  const bool has_parts = node.attributes.has("split") || node.has_input(1);
  if (!has_parts && !node.attributes.has("num_outputs"))
    node.attributes.set("num_outputs", static_cast<int64_t>(node.outputs.size()));
  importer.import_plain(node, OpKind::Split);
}

void pad(Importer& importer, OnnxNode& node) {
  if (node.attributes.has("paddings")) {  // opset 1
    node.attributes.set("pads", node.attributes.integers("paddings"));
    node.attributes.erase("paddings");
  }
  importer.import_plain(node, OpKind::Pad);
}

void tile(Importer& importer, OnnxNode& node) {
  if (node.opset() >= 6) return importer.import_plain(node, OpKind::Tile);
  // opset 1: (input, tiles, axis)
  const Literal tiles = importer.require_content(node, 1, "number of tiles");
  const Literal axis_literal = importer.require_content(node, 2, "axis");
  const int rank = importer.type(node.inputs.at(0)).shape.rank();
  if (tiles.shape().elements() != 1 || axis_literal.shape().elements() != 1)
    node.fail(ErrorId::M033, "tiles and axis must have one element");
  const auto axis = normalize_axis(axis_literal.integer(0), rank);
  if (!axis)
    node.fail(ErrorId::M033, fmt::format("axis {} is out of range for rank {}", axis_literal.integer(0), rank));
  std::vector<int64_t> repeats(static_cast<size_t>(rank), 1);
  repeats[static_cast<size_t>(*axis)] = tiles.integer(0);
  importer.emit_results(node, OpKind::Tile, {node.inputs[0]}, {{"repeats", repeats}});
}

void resize(Importer& importer, OnnxNode& node) {
  drop_empty_operands(importer, node);
  if (node.opset() < 11) {  // (X, scales), sampled as Upsample did
    if (node.inputs.size() > 1) node.inputs = {node.inputs[0], kAbsent, node.inputs[1]};
    node.attributes.set("coordinate_transformation_mode", std::string("asymmetric"));
    node.attributes.set("nearest_mode", std::string("floor"));
  }
  importer.import_plain(node, OpKind::Resize);
}

void upsample(Importer& importer, OnnxNode& node) {
  node.attributes.set("coordinate_transformation_mode", std::string("asymmetric"));
  node.attributes.set("nearest_mode", std::string("floor"));
  if (node.text("mode", "nearest") == "bilinear") node.attributes.set("mode", std::string("linear"));
  if (node.inputs.size() > 1)
    node.inputs = {node.inputs[0], kAbsent, node.inputs[1]};  // opset 9; before, `scales` is an attribute
  if (node.attributes.has("height_scale")) {                  // opset 1
    node.attributes.set("scales",
                        std::vector<double>{1, 1, node.number("height_scale", 1), node.number("width_scale", 1)});
    node.attributes.erase("height_scale");
    node.attributes.erase("width_scale");
  }
  importer.import_plain(node, OpKind::Resize);
}

void scatter(Importer& importer, OnnxNode& node) {
  importer.import_plain(node, OpKind::ScatterElements);
}

}  // namespace mpc::onnx_io::rules
