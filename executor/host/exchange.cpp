#include "executor/host/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "compiler/base/error.h"
#include "executor/host/names.h"

namespace mpc::executor {
namespace {

template <class Item>
PlanIndex find_named(const std::vector<Item>& items, const std::string& name, ErrorId id, const char* what) {
  std::vector<std::string> names;
  for (PlanIndex i = 0; i < items.size(); ++i) {
    if (items[i].name == name) return i;
    names.push_back(items[i].name);
  }
  throw unknown_name(id, what, name, names);
}

}  // namespace

Shape whole_shape(const Plan& plan, PlanIndex value) {
  const PlanValue& v = plan.values[value];
  Shape shape = v.shapes.front();
  if (v.per_step || plan.microbatches == 1) return shape;
  if (shape.rank() == 0) {
    throw Error(ErrorId::M061, fmt::format("value \"{}\"", v.name),
                "a scalar cannot be cut along the batch or put together from micro-batches");
  }
  const Shape& last = v.shapes[v.shapes.size() > 1 ? static_cast<size_t>(plan.variant_of(plan.microbatches - 1)) : 0];
  shape.set(0, shape[0] * (plan.microbatches - 1) + last[0]);
  return shape;
}

HostInputs::HostInputs(const Plan& plan) : plan_(plan), inputs_(plan.inputs.size()) {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const PlanInput& input = plan.inputs[i];
    if (input.is_batched) {
      inputs_[i].shape = whole_shape(plan, input.value);
      inputs_[i].stride_bytes = plan.value_bytes(input.value, 0);
    } else {
      inputs_[i].shape = plan.values[input.value].shapes.front();
    }
  }
}

void HostInputs::bind(const std::string& name, DType dtype, const Shape& shape, std::span<const std::byte> data) {
  const PlanIndex index = find_named(plan_.inputs, name, ErrorId::M004, "input");
  const PlanInput& input = plan_.inputs[index];
  const std::string where = fmt::format("input \"{}\"", name);
  if (!input.is_supplied_by_caller()) throw Error(ErrorId::M004, where, "the session supplies it");
  const DType expected = plan_.values[input.value].dtype;
  if (dtype != expected || shape != inputs_[index].shape) {
    throw Error(ErrorId::M004, where,
                fmt::format("is {}, expected {}", type_text(dtype, shape), type_text(expected, inputs_[index].shape)));
  }
  if (static_cast<int64_t>(data.size()) != byte_size(shape, dtype)) {
    throw Error(ErrorId::M004, where, fmt::format("has {} bytes, expected {}", data.size(), byte_size(shape, dtype)));
  }
  inputs_[index].data = data;
  inputs_[index].is_bound = true;
}

void HostInputs::require_all() const {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const PlanInput& input = plan_.inputs[i];
    if (!input.is_supplied_by_caller() || inputs_[i].is_bound) continue;
    throw Error(ErrorId::M004, fmt::format("input \"{}\"", input.name), "is not bound",
                fmt::format("bind a {}", type_text(plan_.values[input.value].dtype, inputs_[i].shape)));
  }
}

void HostInputs::set_step(int64_t step, double learning_rate_scale) {
  step_ = step;
  learning_rate_scale_ = learning_rate_scale;
  count_labels();
}

void HostInputs::count_labels() {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const PlanInput& input = plan_.inputs[i];
    if (!input.ignored_label || !inputs_[i].is_bound) continue;
    const DType dtype = plan_.values[input.value].dtype;
    const std::span<const std::byte> labels = inputs_[i].data;
    int64_t count = 0;
    for (size_t at = 0; at < labels.size(); at += static_cast<size_t>(dtype_bytes(dtype)))
      count += read_integer(dtype, labels.data() + at) != *input.ignored_label ? 1 : 0;
    label_share_ = count > 0 ? 1 / static_cast<double>(count) : 0;
  }
}

void HostInputs::feed(PlanIndex index, int32_t microbatch, std::span<std::byte> to) const {
  const PlanInput& input = plan_.inputs[index];
  if (input.is_supplied_by_caller()) {
    const int64_t part = microbatch == kPerStep ? 0 : microbatch;
    const auto from = inputs_[index].data.subspan(static_cast<size_t>(part * inputs_[index].stride_bytes), to.size());
    if (!to.empty()) std::memcpy(to.data(), from.data(), to.size());
    return;
  }
  const DType dtype = plan_.values[input.value].dtype;
  const size_t element_bytes = static_cast<size_t>(dtype_bytes(dtype));
  for (size_t at = 0; at + element_bytes <= to.size(); at += element_bytes) {
    if (input.role == PlanInput::Role::step) {
      write_integer(dtype, to.data() + at, step_);
    } else if (input.role == PlanInput::Role::label_share) {
      write_number(dtype, to.data() + at, label_share_);
    } else {
      write_number(dtype, to.data() + at, learning_rate_scale_);
    }
  }
}

HostOutputs::HostOutputs(const Plan& plan) : plan_(plan), outputs_(plan.outputs.size()) {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const PlanOutput& output = plan.outputs[i];
    const PlanValue& value = plan.values[output.value];
    Output& out = outputs_[i];
    const bool is_whole = output.combine == PlanOutput::Combine::concatenate;
    const size_t last = value.shapes.size() > 1 ? static_cast<size_t>(plan.variant_of(plan.microbatches - 1)) : 0;
    out.shape = is_whole ? whole_shape(plan, output.value) : value.shapes[value.per_step ? 0 : last];
    out.result.resize(static_cast<size_t>(byte_size(out.shape, value.dtype)));
    if (output.combine != PlanOutput::Combine::sum || value.per_step) continue;
    if (value.shapes.size() > 1 && value.shapes[0] != value.shapes[1]) {
      throw Error(ErrorId::M061, fmt::format("output \"{}\"", output.name),
                  "micro-batches of different shapes cannot be added");
    }
    out.parts.resize(out.result.size() * static_cast<size_t>(plan.microbatches));
  }
}

void HostOutputs::fetch(PlanIndex index, int32_t microbatch, std::span<const std::byte> from) {
  if (from.empty()) return;
  Output& out = outputs_[index];
  const PlanOutput& output = plan_.outputs[index];
  std::byte* to = out.result.data();
  if (microbatch != kPerStep) {
    switch (output.combine) {
      case PlanOutput::Combine::concatenate:
        to += microbatch * plan_.value_bytes(output.value, 0);
        break;
      case PlanOutput::Combine::sum:
        to = out.parts.data() + static_cast<size_t>(microbatch) * out.result.size();
        break;
      case PlanOutput::Combine::last:
        if (microbatch != plan_.microbatches - 1) return;
        break;
    }
  }
  std::memcpy(to, from.data(), from.size());
}

void HostOutputs::add_up(PlanIndex index) {
  Output& out = outputs_[index];
  const DType dtype = plan_.values[plan_.outputs[index].value].dtype;
  const size_t element_bytes = static_cast<size_t>(dtype_bytes(dtype));
  // In double and ascending order of micro-batches, so that the result does not depend on who fetched first.
  for (size_t at = 0; at < out.result.size(); at += element_bytes) {
    double sum = 0;
    for (size_t part = at; part < out.parts.size(); part += out.result.size()) {
      sum += read_number(dtype, out.parts.data() + part);
    }
    write_number(dtype, out.result.data() + at, sum);
  }
}

void HostOutputs::finish() {
  for (PlanIndex i = 0; i < outputs_.size(); ++i) {
    if (!outputs_[i].parts.empty()) add_up(i);
  }
  has_results_ = true;
}

Literal HostOutputs::output(const std::string& name) const {
  const PlanIndex index = find_named(plan_.outputs, name, ErrorId::M002, "output");
  if (!has_results_) throw Error(ErrorId::M002, fmt::format("output \"{}\"", name), "no step has run yet");
  const Output& out = outputs_[index];
  return Literal(plan_.values[plan_.outputs[index].value].dtype, out.shape, out.result);
}

double HostOutputs::number(PlanIndex index) const {
  const Output& out = outputs_[index];
  return out.result.empty() ? 0 : read_number(plan_.values[plan_.outputs[index].value].dtype, out.result.data());
}

}  // namespace mpc::executor
