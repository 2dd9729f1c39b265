#include <algorithm>

#include <fmt/format.h>

#include "compiler/base/checked.h"
#include "compiler/onnx/import_rules.h"

// Layers that the IR writes in other words, or in another form when training.

namespace mpc::onnx_io::rules {
namespace {

std::vector<int64_t> axes_from(int first, int rank) {
  std::vector<int64_t> axes;
  for (int axis = first; axis < rank; ++axis) axes.push_back(axis);
  return axes;
}

/// One value per channel as a tensor that broadcasts against (N, C, d1, ...).
Slot per_channel(Importer& importer, const OnnxNode& node, Slot vector, int rank, std::string_view suffix) {
  std::vector<int64_t> shape(static_cast<size_t>(rank - 1), 1);
  shape[0] = importer.type(vector).shape.elements();
  return importer.reshape(node, vector, shape, suffix);
}

/// (x - mean) / sqrt(variance + epsilon), all of shapes that broadcast.
Slot normalized(Importer& importer, const OnnxNode& node, Slot centred, Slot variance, double epsilon) {
  const Slot shifted =
      importer.emit(node, OpKind::Add, {variance, importer.scalar_like(variance, epsilon, node.name + "/epsilon")}, {},
                    "variance_epsilon");
  const Slot deviation = importer.emit(node, OpKind::Sqrt, {shifted}, {}, "deviation");
  return importer.emit(node, OpKind::Div, {centred, deviation}, {}, "normalized");
}

void require_channels(Importer& importer, const OnnxNode& node, size_t first, size_t last) {
  const Shape& x = importer.type(node.inputs.at(0)).shape;
  if (x.rank() < 2)
    node.fail(ErrorId::M032, fmt::format("input 0 has shape {}, rank 2 or more is needed", to_string(x)));
  for (size_t i = first; i <= last; ++i) {
    if (!node.has_input(i)) node.fail(ErrorId::M022, fmt::format("input {} is required", i));
    const Shape& shape = importer.type(node.inputs[i]).shape;
    if (shape.rank() != 1 || shape[0] != x[1])
      node.fail(ErrorId::M032, fmt::format("input {} has shape {}, ({}) is needed", i, to_string(shape), x[1]));
  }
}

/// The statistics of x over some axes, and x normalized with them and scaled per channel.
struct Normalized {
  Slot mean;
  Slot variance;
  Slot scaled;
};
Normalized normalize_over(Importer& importer, const OnnxNode& node, const std::vector<int64_t>& axes) {
  const Slot x = node.inputs[0];
  const Attributes reduce{{"axes", axes}, {"keepdims", int64_t{1}}};
  const Slot mean = importer.emit(node, OpKind::ReduceMean, {x}, reduce, "mean");
  const Slot centred = importer.emit(node, OpKind::Sub, {x, mean}, {}, "centred");
  const Slot squares = importer.emit(node, OpKind::Mul, {centred, centred}, {}, "squares");
  const Slot variance = importer.emit(node, OpKind::ReduceMean, {squares}, reduce, "variance");
  const Slot unit = normalized(importer, node, centred, variance, node.number("epsilon", 1e-5));
  const Slot scale = per_channel(importer, node, node.inputs[1], importer.type(x).shape.rank(), "scale");
  return {mean, variance, importer.emit(node, OpKind::Mul, {unit, scale}, {}, "scaled")};
}

/// Batch statistics without running averages to update in place: the statistics come in and go out as plain values.
void batch_statistics(Importer& importer, const OnnxNode& node) {
  const Slot x = node.inputs[0];
  const int rank = importer.type(x).shape.rank();
  std::vector<int64_t> axes = axes_from(2, rank);
  axes.insert(axes.begin(), 0);
  const auto [mean, variance, scaled] = normalize_over(importer, node, axes);
  const double momentum = node.number("momentum", 0.9);
  const auto running = [&](size_t input, Slot batch, std::string_view what) {
    const Slot flat = importer.reshape(node, batch, importer.type(node.inputs[input]).shape.to_vector(),
                                       fmt::format("{}_flat", what));
    const Slot old =
        importer.emit(node, OpKind::Mul,
                      {node.inputs[input], importer.scalar_like(node.inputs[input], momentum, node.name + "/momentum")},
                      {}, fmt::format("{}_old", what));
    const Slot fresh = importer.emit(
        node, OpKind::Mul, {flat, importer.scalar_like(flat, 1 - momentum, node.name + "/one_minus_momentum")}, {},
        fmt::format("{}_new", what));
    return importer.emit(node, OpKind::Add, {old, fresh}, {}, fmt::format("running_{}", what));
  };
  if (node.has_output(1)) importer.bind(node, 1, running(3, mean, "mean"));
  if (node.has_output(2)) importer.bind(node, 2, running(4, variance, "variance"));
  OnnxNode first = node;
  first.outputs.resize(1);
  importer.emit_results(first, OpKind::Add, {scaled, per_channel(importer, node, node.inputs[2], rank, "bias")}, {});
}

/// Running averages are parameters that the step updates and no gradient reaches.
void batch_training(Importer& importer, const OnnxNode& node) {
  const Attributes attributes{{"epsilon", node.number("epsilon", 1e-5)}, {"momentum", node.number("momentum", 0.9)}};
  importer.set_not_trainable(node.inputs[3]);
  importer.set_not_trainable(node.inputs[4]);
  OnnxNode full = node;
  // With the batch's statistics, which ONNX does not ask for, the gradient need not make them again.
  const bool keeps_batch = importer.options().mode == ImportOptions::Mode::training;
  full.outputs.resize(keeps_batch ? 5 : 3);
  constexpr std::string_view kNames[] = {"", "running_mean", "running_var", "batch_mean", "batch_inverse"};
  for (size_t i = 1; i < full.outputs.size(); ++i) {
    if (i >= 3 || full.outputs[i].empty()) full.outputs[i] = fmt::format("{}/{}", node.name, kNames[i]);
  }
  const std::vector<Slot> results =
      importer.emit_results(full, OpKind::BatchNormalizationTraining, node.inputs, attributes);
  importer.add_update(node.inputs[3], results[1]);
  importer.add_update(node.inputs[4], results[2]);
}

bool is_training(const Importer& importer, const OnnxNode& node) {
  if (importer.options().mode == ImportOptions::Mode::training) return true;
  if (node.opset() >= 14) return node.integer("training_mode", 0) != 0;
  if (node.opset() < 7) return node.integer("is_test", 0) == 0 && node.outputs.size() > 1;
  return node.has_output(1) || node.has_output(2) || node.has_output(3) || node.has_output(4);
}

/// An attribute of one number per spatial axis (two for pads), each within [low, 2^31]: sums of a few of them and of a
/// dimension then cannot overflow.
std::vector<int64_t> per_axis(const OnnxNode& node, std::string_view name, size_t count, int64_t otherwise,
                              int64_t low) {
  constexpr int64_t kLargest = int64_t{1} << 31;
  std::vector<int64_t> values =
      node.attributes.has(name) ? node.attributes.integers(name) : std::vector<int64_t>(count, otherwise);
  if (values.size() != count)
    node.fail(ErrorId::M031, fmt::format("{} has {} entries, {} are needed", name, values.size(), count));
  for (const int64_t value : values) {
    if (value < low || value > kLargest)
      node.fail(ErrorId::M031, fmt::format("{} holds {}, {}..{} is allowed", name, value, low, kLargest));
  }
  return values;
}

/// One axis of a ConvTranspose.
struct TransposedAxis {
  int64_t size;       // of the result
  int64_t pad_begin;  // resolved
  int64_t pad_end;
};

/// size = stride * (input - 1) + output_padding + dilation * (kernel - 1) + 1 - pads, or the size is given and the pads
/// follow.
TransposedAxis transposed_axis(const OnnxNode& node, int64_t reach, int64_t full, std::optional<int64_t> wanted,
                               int64_t stride, const std::string& auto_pad, int64_t pad_begin, int64_t pad_end) {
  const bool is_same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  TransposedAxis axis{full - pad_begin - pad_end, pad_begin, pad_end};
  if (wanted || is_same) {
    axis.size = wanted.value_or(reach + stride);
    const int64_t total = std::max<int64_t>(0, full - axis.size);
    axis.pad_begin = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
    axis.pad_end = total - axis.pad_begin;
  }
  if (axis.size < 0) node.fail(ErrorId::M032, fmt::format("the result would have a dimension of {}", axis.size));
  return axis;
}

/// The attributes of the ConvInputGrad that a ConvTranspose is. @pre x and w have the same rank, 3 or more.
Attributes transposed_geometry(const OnnxNode& node, const Shape& x, const Shape& w) {
  const auto n = static_cast<size_t>(x.rank() - 2);
  const int64_t group = node.integer("group", 1);
  if (group < 1 || x[1] % group != 0)
    node.fail(ErrorId::M031, fmt::format("group {} does not divide {} channels", group, x[1]));
  const std::string auto_pad = node.text("auto_pad", "NOTSET");
  if (auto_pad != "NOTSET" && auto_pad != "VALID" && auto_pad != "SAME_UPPER" && auto_pad != "SAME_LOWER") {
    node.fail(ErrorId::M031, fmt::format("auto_pad is '{}'", escaped(auto_pad, 60)));
  }
  const auto strides = per_axis(node, "strides", n, 1, 1);
  const auto dilations = per_axis(node, "dilations", n, 1, 1);
  const auto extra = per_axis(node, "output_padding", n, 0, 0);
  const auto sizes =
      node.attributes.has("output_shape") ? per_axis(node, "output_shape", n, 0, 1) : std::vector<int64_t>();
  std::vector<int64_t> pads = per_axis(node, "pads", 2 * n, 0, 0);
  const auto channels = checked_mul(w[1], group);
  if (!channels) node.fail(ErrorId::M051, "the result has too many channels");
  std::vector<int64_t> shape = {x[0], *channels};
  const std::vector<int64_t> kernel(w.begin() + 2, w.end());
  for (size_t i = 0; i < n; ++i) {
    const auto reach = checked_mul(strides[i], x[static_cast<int>(i) + 2] - 1);
    const auto window = checked_mul(dilations[i], kernel[i] - 1);
    if (!reach || !window || *reach > kMaxTensorBytes || *window > kMaxTensorBytes)
      node.fail(ErrorId::M051, "the result is too large");
    const auto wanted = sizes.empty() ? std::nullopt : std::optional(sizes[i]);
    const TransposedAxis axis = transposed_axis(node, *reach, *reach + extra[i] + *window + 1, wanted, strides[i],
                                                auto_pad, pads[i], pads[n + i]);
    shape.push_back(axis.size);
    pads[i] = axis.pad_begin;
    pads[n + i] = axis.pad_end;
  }
  if (node.attributes.has("kernel_shape") && node.attributes.integers("kernel_shape") != kernel)
    node.fail(ErrorId::M031, "kernel_shape differs from the weights");
  return {{"group", group}, {"strides", strides},     {"dilations", dilations},
          {"pads", pads},   {"kernel_shape", kernel}, {"shape", shape}};
}

}  // namespace

void global_pool(Importer& importer, OnnxNode& node) {
  const Shape& x = importer.type(node.inputs.at(0)).shape;
  if (x.rank() < 2)
    node.fail(ErrorId::M032, fmt::format("input 0 has shape {}, rank 2 or more is needed", to_string(x)));
  OpKind op = node.op == "GlobalMaxPool" ? OpKind::ReduceMax : OpKind::ReduceMean;
  if (node.op == "GlobalLpPool") {
    const double p = node.opset() < 2 ? node.number("p", 2) : static_cast<double>(node.integer("p", 2));
    if (p != 1 && p != 2) node.fail(ErrorId::M046, fmt::format("p is {}, 1 and 2 are supported", p));
    op = p == 1 ? OpKind::ReduceL1 : OpKind::ReduceL2;
  }
  if (x.rank() == 2) return importer.bind(node, 0, node.inputs[0]);
  importer.emit_results(node, op, {node.inputs[0]}, {{"axes", axes_from(2, x.rank())}, {"keepdims", int64_t{1}}});
}

void dropout(Importer& importer, OnnxNode& node) {
  const Slot x = node.inputs.at(0);
  bool trains = importer.options().mode == ImportOptions::Mode::training;
  double ratio = node.number("ratio", 0.5);
  const auto scalar = [&](size_t input, std::string_view what) {
    const Literal literal = importer.require_content(node, input, what);
    if (literal.shape().elements() != 1)
      node.fail(ErrorId::M032,
                fmt::format("input {} has {} elements, one is needed", input, literal.shape().elements()));
    return literal.number(0);
  };
  if (node.opset() >= 12 && node.has_input(2)) trains = trains || scalar(2, "form of the dropout") != 0;
  if (trains && node.opset() >= 12 && node.has_input(1)) ratio = scalar(1, "ratio");
  if (!(ratio >= 0 && ratio < 1)) node.fail(ErrorId::M033, fmt::format("ratio is {}, it must be in [0, 1)", ratio));
  if (trains && ratio > 0) {
    // PyTorch's exporter names the mask though nothing reads it.
    if (node.has_output(1) && importer.is_read(node.outputs[1]))
      node.fail(ErrorId::M046, "the mask of a dropout that trains is not supported as a result");
    OnnxNode first = node;
    first.outputs.resize(1);
    importer.emit_results(first, OpKind::Dropout, {x}, {{"ratio", ratio}, {"rng", importer.next_rng()}});
    return;
  }
  importer.bind(node, 0, x);
  const DType mask = node.opset() < 10 ? importer.type(x).dtype : DType::boolean;
  if (node.has_output(1)) importer.bind_literal(node, 1, Literal::splat_number(mask, importer.type(x).shape, 1));
}

void batch_normalization(Importer& importer, OnnxNode& node) {
  if (node.integer("spatial", 1) == 0)
    node.fail(ErrorId::M046, "statistics per activation (spatial = 0) are not supported");
  require_channels(importer, node, 1, 4);
  for (size_t i = 3; i < 5; ++i) {
    // no gradient reaches the statistics, in either form
    if (importer.is_weight(node.inputs[i])) importer.set_not_trainable(node.inputs[i]);
  }
  if (!is_training(importer, node)) {
    OnnxNode first = node;
    first.outputs.resize(1);
    importer.emit_results(first, OpKind::BatchNormalization, node.inputs,
                          {{"epsilon", node.number("epsilon", 1e-5)}, {"momentum", node.number("momentum", 0.9)}});
    return;
  }
  for (size_t i = 3; i < 5; ++i) {
    if (node.has_output(i) && importer.is_read(node.outputs[i]))
      node.fail(ErrorId::M046, "saved statistics (outputs 3 and 4 before opset 14) are not supported");
  }
  const bool has_running_averages = importer.is_weight(node.inputs[3]) && importer.is_weight(node.inputs[4]);
  return has_running_averages ? batch_training(importer, node) : batch_statistics(importer, node);
}

void instance_normalization(Importer& importer, OnnxNode& node) {
  require_channels(importer, node, 1, 2);
  const Slot x = node.inputs[0];
  const int rank = importer.type(x).shape.rank();
  if (rank < 3)
    node.fail(ErrorId::M032,
              fmt::format("input 0 has shape {}, rank 3 or more is needed", to_string(importer.type(x).shape)));
  const Slot scaled = normalize_over(importer, node, axes_from(2, rank)).scaled;
  importer.emit_results(node, OpKind::Add, {scaled, per_channel(importer, node, node.inputs[2], rank, "bias")}, {});
}

/// ConvTranspose is the input gradient of the Conv with the same weights.
void conv_transpose(Importer& importer, OnnxNode& node) {
  if (node.inputs.size() < 2) node.fail(ErrorId::M022, "needs x and weights");
  const Shape x = importer.type(node.inputs[0]).shape;  // (N, C, d1, ...)
  const Shape w = importer.type(node.inputs[1]).shape;  // (C, M / group, k1, ...)
  if (x.rank() < 3 || w.rank() != x.rank() || w[0] != x[1]) {
    node.fail(ErrorId::M032, fmt::format("x {} and weights {} do not belong together", to_string(x), to_string(w)));
  }
  const Attributes attributes = transposed_geometry(node, x, w);
  if (!node.has_input(2)) {
    importer.emit_results(node, OpKind::ConvInputGrad, {node.inputs[0], node.inputs[1]}, attributes);
    return;
  }
  const Slot product = importer.emit(node, OpKind::ConvInputGrad, {node.inputs[0], node.inputs[1]}, attributes, "conv");
  importer.emit_results(node, OpKind::Add, {product, per_channel(importer, node, node.inputs[2], x.rank(), "bias")},
                        {});
}

}  // namespace mpc::onnx_io::rules
