#include "compiler/ops/recurrent.h"

#include <algorithm>
#include <cctype>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/base/checked.h"

namespace mpc::ops {
namespace {

int64_t direction_count(const InferContext& context) {
  const std::string& direction = context.attributes().text("direction");
  if (direction == "forward" || direction == "reverse") return 1;
  if (direction == "bidirectional") return 2;
  context.fail(ErrorId::M031, fmt::format("direction '{}' is not known", escaped(direction, 40)),
               "use forward, reverse or bidirectional");
}

/// ONNX does not mind the case of these names.
bool is_same_name(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  return std::ranges::equal(a, b, [&](char x, char y) { return lower(x) == lower(y); });
}

/// Leaves only the form mpc has kernels for: the default activations, no clip.
void canonicalize_activations(InferContext& context, int64_t directions,
                              std::span<const std::string_view> activations) {
  const Attributes& attributes = context.attributes();
  if (attributes.has("activations")) {
    const auto& names = attributes.texts("activations");
    const size_t count = activations.size();
    bool is_default = names.empty() || names.size() == count * static_cast<size_t>(directions);
    for (size_t i = 0; is_default && i < names.size(); ++i) is_default = is_same_name(names[i], activations[i % count]);
    if (!is_default) {
      context.fail(ErrorId::M046, fmt::format("only the activations {} are supported", fmt::join(activations, ", ")));
    }
  }
  for (const std::string_view name : {"activation_alpha", "activation_beta"}) {
    if (attributes.has(name) && !attributes.numbers(name).empty())
      context.fail(ErrorId::M046, fmt::format("{} is not supported", name));
    context.erase_attribute(name);
  }
  if (attributes.has("clip")) context.fail(ErrorId::M046, "clip is not supported");
  context.erase_attribute("activations");
}

bool read_layout(const InferContext& context) {
  const int64_t layout = context.attributes().integer("layout");
  if (layout != 0 && layout != 1) context.fail(ErrorId::M031, fmt::format("layout is {}, must be 0 or 1", layout));
  return layout == 1;
}

void check_hidden_size(InferContext& context, int64_t hidden) {
  if (context.attributes().has("hidden_size") && context.attributes().integer("hidden_size") != hidden) {
    context.fail(ErrorId::M031, fmt::format("hidden_size is {}, the operands have {}",
                                            context.attributes().integer("hidden_size"), hidden));
  }
  context.set_attribute("hidden_size", hidden);
}

/// 2GH. Without hidden units there would be steps without end over nothing.
int64_t checked_bias_rows(const InferContext& context, const RecurrentDims& dims) {
  const auto rows = checked_mul(2 * dims.gate_count, dims.hidden);
  if (dims.hidden < 1 || !rows)
    context.fail(ErrorId::M032, fmt::format("there are {} hidden units, 1 or more are needed", dims.hidden));
  return *rows;
}

void check_sequence_lens(const InferContext& context, int i, const RecurrentDims& dims) {
  require_shape(context, i, Shape{dims.batch});
  if (!context.has_input(i) || context.input(i).dtype == DType::i32) return;
  context.fail(ErrorId::M030, fmt::format("sequence_lens is {}, i32 is needed", dtype_name(context.input(i).dtype)));
}

void read_x(const Shape& x, RecurrentDims& dims) {
  dims.steps = x[dims.is_batch_first ? 1 : 0];
  dims.batch = x[dims.is_batch_first ? 0 : 1];
  dims.inputs = x[2];
}

}  // namespace

std::vector<AttributeSpec> direction_attributes() {
  return {{"direction", AttributeType::text, std::string("forward")},
          {"hidden_size", AttributeType::integer, {}, true},
          {"layout", AttributeType::integer, int64_t{0}}};
}

std::vector<AttributeSpec> cell_attributes() {
  std::vector<AttributeSpec> attributes = direction_attributes();
  attributes.push_back({"activation_alpha", AttributeType::numbers, {}, true});
  attributes.push_back({"activation_beta", AttributeType::numbers, {}, true});
  attributes.push_back({"activations", AttributeType::texts, {}, true});
  attributes.push_back({"clip", AttributeType::number, {}, true});
  return attributes;
}

Attributes direction_values(const GradientContext& context) {
  return {{"direction", context.attributes().text("direction")},
          {"hidden_size", context.attributes().integer("hidden_size")},
          {"layout", context.attributes().integer("layout")}};
}

void require_shape(const InferContext& context, int i, const Shape& shape) {
  if (!context.has_input(i) || context.input(i).shape == shape) return;
  context.fail(ErrorId::M032, fmt::format("input {} has shape {}, {} is needed", i, to_string(context.input(i).shape),
                                          to_string(shape)));
}

RecurrentDims read_cell(InferContext& context, int64_t gate_count, std::span<const std::string_view> activations) {
  RecurrentDims dims{.gate_count = gate_count};
  dims.directions = direction_count(context);
  dims.is_batch_first = read_layout(context);
  canonicalize_activations(context, dims.directions, activations);
  context.require_float(kX);
  for (int i = kW; i < context.input_count(); ++i) {
    if (context.has_input(i) && i != kSequenceLens) context.require_same_dtype(kX, i);
  }
  for (const int i : {kX, kW, kR}) context.require_rank(i, 3);
  read_x(context.input(kX).shape, dims);
  dims.hidden = context.input(kR).shape[2];
  const int64_t bias_rows = checked_bias_rows(context, dims);
  require_shape(context, kW, Shape{dims.directions, gate_count * dims.hidden, dims.inputs});
  require_shape(context, kR, Shape{dims.directions, gate_count * dims.hidden, dims.hidden});
  require_shape(context, kBias, Shape{dims.directions, bias_rows});
  check_sequence_lens(context, kSequenceLens, dims);
  require_shape(context, kInitialH, dims.state());
  check_hidden_size(context, dims.hidden);
  return dims;
}

RecurrentDims infer_recurrent_weight_grad(InferContext& context, int64_t gate_count, int sequence_lens) {
  constexpr int kDGates = 0;
  constexpr int kSeenX = 1;
  constexpr int kY = 2;
  const int initial_h = sequence_lens + 1;
  RecurrentDims dims{.gate_count = gate_count};
  dims.directions = direction_count(context);
  dims.is_batch_first = read_layout(context);
  context.require_float(kDGates);
  for (int i = kSeenX; i < context.input_count(); ++i) {
    if (context.has_input(i) && i != sequence_lens) context.require_same_dtype(kDGates, i);
  }
  context.require_rank(kSeenX, 3);
  context.require_rank(kY, 4);
  const DType dtype = context.input(kDGates).dtype;
  read_x(context.input(kSeenX).shape, dims);
  dims.hidden = context.input(kY).shape[3];
  const int64_t bias_rows = checked_bias_rows(context, dims);
  require_shape(context, kDGates, dims.gates());
  require_shape(context, kY, dims.y());
  check_sequence_lens(context, sequence_lens, dims);
  require_shape(context, initial_h, dims.state());
  check_hidden_size(context, dims.hidden);
  context.set_output(0, dtype, Shape{dims.directions, gate_count * dims.hidden, dims.inputs});
  context.set_output(1, dtype, Shape{dims.directions, gate_count * dims.hidden, dims.hidden});
  context.set_output(2, dtype, Shape{dims.directions, bias_rows});
  return dims;
}

double forward_flops(const CostContext& context, double unit_flops) {
  const Shape& w = context.input(kW).shape;
  const Shape& r = context.input(kR).shape;
  const double rows = static_cast<double>(context.input(kX).shape.elements(0, 2));
  return 2.0 * rows * (static_cast<double>(w.elements()) + static_cast<double>(r.elements())) +
         unit_flops * rows * static_cast<double>(r[0]) * static_cast<double>(r[2]);
}

double input_grad_flops(const CostContext& context, double unit_flops) {
  return 2.0 * forward_flops(context, unit_flops);
}

double weight_grad_flops(const CostContext& context) {
  const double columns =
      static_cast<double>(context.input(1).shape[2]) + static_cast<double>(context.input(2).shape[3]);
  return static_cast<double>(context.input(0).shape.elements()) * (2.0 * columns + 1.0);
}

}  // namespace mpc::ops
