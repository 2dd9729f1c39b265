#include <algorithm>

#include <fmt/format.h>

#include "compiler/onnx/import_rules.h"

// Arithmetic, and its forms in older opsets.

namespace mpc::onnx_io::rules {
namespace {

/// a op b op c ...: the last step has the ONNX node's name. One operand is passed through.
void chain(Importer& importer, const OnnxNode& node, OpKind op) {
  if (node.inputs.empty()) node.fail(ErrorId::M022, "has no inputs, one or more are needed");
  if (std::ranges::find(node.inputs, kAbsent) != node.inputs.end()) node.fail(ErrorId::M022, "an input is absent");
  if (node.inputs.size() == 1) return importer.bind(node, 0, node.inputs[0]);
  Slot total = node.inputs[0];
  for (size_t i = 1; i + 1 < node.inputs.size(); ++i)
    total = importer.emit(node, op, {total, node.inputs[i]}, {}, fmt::format("{}", i));
  importer.emit_results(node, op, {total, node.inputs.back()}, {});
}

/// Before opset 7 the second operand was aligned with `axis` of the first, not with its end.
void align_legacy(Importer& importer, OnnxNode& node) {
  if (node.opset() >= 7) return;
  const bool has_axis = node.attributes.has("axis");
  if (has_axis && node.integer("broadcast", 0) != 0 && node.inputs.size() == 2) {
    const Shape a = importer.type(node.inputs[0]).shape;
    const Shape b = importer.type(node.inputs[1]).shape;
    const auto axis = normalize_axis(node.integer("axis", 0), std::max(a.rank(), 1));
    if (!axis || *axis + b.rank() > a.rank())
      node.fail(ErrorId::M031, fmt::format("axis {} does not place shape {} in {}", node.integer("axis", 0),
                                           to_string(b), to_string(a)));
    std::vector<int64_t> aligned = b.to_vector();
    aligned.resize(static_cast<size_t>(a.rank() - *axis), 1);
    if (aligned != b.to_vector()) node.inputs[1] = importer.reshape(node, node.inputs[1], aligned, "aligned");
  }
  for (const char* name : {"axis", "broadcast"}) node.attributes.erase(name);
}

}  // namespace

void sum(Importer& importer, OnnxNode& node) {
  chain(importer, node, OpKind::Add);
}
void max(Importer& importer, OnnxNode& node) {
  chain(importer, node, OpKind::Max);
}
void min(Importer& importer, OnnxNode& node) {
  chain(importer, node, OpKind::Min);
}

void mean(Importer& importer, OnnxNode& node) {
  if (node.inputs.size() < 2) return chain(importer, node, OpKind::Add);
  if (std::ranges::find(node.inputs, kAbsent) != node.inputs.end()) node.fail(ErrorId::M022, "an input is absent");
  Slot total = node.inputs[0];
  for (size_t i = 1; i < node.inputs.size(); ++i)
    total = importer.emit(node, OpKind::Add, {total, node.inputs[i]}, {}, fmt::format("{}", i));
  const Slot count = importer.scalar_like(total, static_cast<double>(node.inputs.size()), node.name + "/count");
  importer.emit_results(node, OpKind::Div, {total, count}, {});
}

void clip(Importer& importer, OnnxNode& node) {
  const auto is_fixed = [&](size_t i) { return !node.has_input(i) || importer.content(node.inputs[i]).has_value(); };
  if (is_fixed(1) && is_fixed(2)) return importer.import_plain(node, OpKind::Clip);
  // Bounds that the step computes: max first, so that a maximum below the minimum wins, as ONNX says.
  if (node.has_input(1) && node.has_input(2)) {
    const Slot above = importer.emit(node, OpKind::Max, {node.inputs[0], node.inputs[1]}, {}, "max");
    importer.emit_results(node, OpKind::Min, {above, node.inputs[2]}, {});
  } else {
    const bool has_low = node.has_input(1);
    importer.emit_results(node, has_low ? OpKind::Max : OpKind::Min, {node.inputs[0], node.inputs[has_low ? 1 : 2]},
                          {});
  }
}

void broadcasting(Importer& importer, OnnxNode& node) {
  align_legacy(importer, node);
  const auto op = find_op(node.op);
  MPC_CHECK(op.has_value(), "the rule is for ops of the IR");
  if (*op == OpKind::PRelu && node.inputs.size() == 2 && node.opset() < 7) {
    // one slope per channel
    const Shape x = importer.type(node.inputs[0]).shape;
    const Shape slope = importer.type(node.inputs[1]).shape;
    if (slope.rank() == 1 && slope[0] != 1 && x.rank() > 2) {
      std::vector<int64_t> aligned(static_cast<size_t>(x.rank() - 1), 1);
      aligned[0] = slope[0];
      node.inputs[1] = importer.reshape(node, node.inputs[1], aligned, "slope");
    }
  }
  importer.import_plain(node, *op);
}

/// What fused products have beside ONNX's operands and attributes comes from no file.
void refuse_fused(const OnnxNode& node, size_t most_inputs, std::initializer_list<std::string_view> own) {
  if (node.inputs.size() > most_inputs) {
    node.fail(ErrorId::M022,
              fmt::format("has {} inputs, {} takes at most {}", node.inputs.size(), node.op, most_inputs));
  }
  for (const std::string_view name : own) {
    if (node.attributes.has(name)) {
      node.fail(ErrorId::M031, fmt::format("attribute '{}' is none of {}'s", name, node.op));
    }
  }
}

void matmul(Importer& importer, OnnxNode& node) {
  refuse_fused(node, 2, {"activation", "origins", "transA", "transB"});
  importer.import_plain(node, OpKind::MatMul);
}

void gemm(Importer& importer, OnnxNode& node) {
  refuse_fused(node, 3, {"activation", "origins"});
  node.attributes.erase("broadcast");  // before opset 7; C broadcasts as it does since
  importer.import_plain(node, OpKind::Gemm);
}

void softmax(Importer& importer, OnnxNode& node) {
  const auto op = find_op(node.op);
  MPC_CHECK(op.has_value(), "the rule is for ops of the IR");
  if (node.opset() >= 13) return importer.import_plain(node, *op);
  // Before opset 13: over all dimensions from `axis` on, taken together.
  const Shape from = importer.type(node.inputs.at(0)).shape;
  const int64_t given = node.integer("axis", 1);
  const auto axis = normalize_axis(given, from.rank());
  if (!axis) node.fail(ErrorId::M031, fmt::format("axis {} is out of range for shape {}", given, to_string(from)));
  if (*axis == from.rank() - 1) return void(importer.emit_results(node, *op, node.inputs, {{"axis", int64_t{*axis}}}));
  const Slot flat =
      importer.reshape(node, node.inputs[0], {from.elements(0, *axis), from.elements(*axis, from.rank())}, "flat");
  const Slot result = importer.emit(node, *op, {flat}, {{"axis", int64_t{1}}}, "2d");
  importer.emit_results(node, OpKind::Reshape, {result}, {{"shape", from.to_vector()}, {"allowzero", int64_t{1}}});
}

void hardmax(Importer& importer, OnnxNode& node) {
  const Slot x = node.inputs.at(0);
  const Shape from = importer.type(x).shape;
  const int64_t given = node.integer("axis", node.opset() >= 13 ? -1 : 1);
  const auto axis = normalize_axis(given, from.rank());
  if (!axis) node.fail(ErrorId::M031, fmt::format("axis {} is out of range for shape {}", given, to_string(from)));
  const bool is_flat = node.opset() < 13;
  const std::vector<int64_t> shape =
      is_flat ? std::vector<int64_t>{from.elements(0, *axis), from.elements(*axis, from.rank())} : from.to_vector();
  const int64_t along = is_flat ? 1 : *axis;
  const Slot operand = is_flat ? importer.reshape(node, x, shape, "flat") : x;
  const Slot index =
      importer.emit(node, OpKind::ArgMax, {operand}, {{"axis", along}, {"keepdims", int64_t{0}}}, "argmax");
  const DType dtype = importer.type(x).dtype;
  const auto element_bytes = static_cast<size_t>(dtype_bytes(dtype));
  std::vector<std::byte> off_and_on(2 * element_bytes);
  write_number(dtype, off_and_on.data() + element_bytes, 1);
  const Slot values = importer.add_literal(node.name + "/values", Literal(dtype, Shape{2}, std::move(off_and_on)));
  const Attributes attributes{{"depth", shape[static_cast<size_t>(along)]}, {"axis", along}};
  if (!is_flat) return void(importer.emit_results(node, OpKind::OneHot, {index, values}, attributes));
  const Slot result = importer.emit(node, OpKind::OneHot, {index, values}, attributes, "2d");
  importer.emit_results(node, OpKind::Reshape, {result}, {{"shape", from.to_vector()}, {"allowzero", int64_t{1}}});
}

}  // namespace mpc::onnx_io::rules
