#include "tests/support/interpreter.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "compiler/base/error.h"
#include "compiler/ops/builder.h"

namespace mpc::test {
namespace {

// Operands begin at multiples of this, as in plans: kernels rely on it.
constexpr size_t kGuardBytes = 256;
constexpr std::byte kGuard{0xA5};

// Bytes between two guards.
class GuardedBuffer {
 public:
  GuardedBuffer() = default;
  GuardedBuffer(size_t bytes, std::byte fill) : bytes_(bytes), blocks_(2 + (bytes + kGuardBytes - 1) / kGuardBytes) {
    std::ranges::fill(all(), kGuard);
    std::ranges::fill(span(), fill);
  }
  explicit GuardedBuffer(const std::vector<std::byte>& content) : GuardedBuffer(content.size(), kGuard) {
    std::ranges::copy(content, data());
  }

  std::byte* data() { return all().data() + kGuardBytes; }
  std::span<std::byte> span() { return {data(), bytes_}; }
  std::vector<std::byte> content() const {
    const std::span<const std::byte> here = all().subspan(kGuardBytes, bytes_);
    return {here.begin(), here.end()};
  }
  bool is_intact() const {
    if (blocks_.empty()) return true;
    const auto is_guard = [](std::byte b) { return b == kGuard; };
    return std::ranges::all_of(all().first(kGuardBytes), is_guard) &&
           std::ranges::all_of(all().subspan(kGuardBytes + bytes_), is_guard);
  }

 private:
  struct alignas(kGuardBytes) Block {
    std::byte bytes[kGuardBytes];
  };
  std::span<std::byte> all() { return {reinterpret_cast<std::byte*>(blocks_.data()), blocks_.size() * kGuardBytes}; }
  std::span<const std::byte> all() const {
    return {reinterpret_cast<const std::byte*>(blocks_.data()), blocks_.size() * kGuardBytes};
  }

  size_t bytes_ = 0;
  std::vector<Block> blocks_;
};

int in_place_operand(const CallOptions& options, size_t output) {
  return output < options.in_place.size() ? options.in_place[output] : -1;
}

bool is_overwritten(const CallOptions& options, size_t input) {
  return std::ranges::find(options.in_place, static_cast<int>(input)) != options.in_place.end();
}

void check_operands(OpKind op, const Tensors& inputs, const std::vector<GuardedBuffer>& buffers,
                    const CallOptions& options) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i] || is_overwritten(options, i)) continue;
    if (buffers[i].content() != inputs[i]->dense()) {
      throw std::logic_error(std::string(op_name(op)) + " wrote to its operand " + std::to_string(i));
    }
  }
}

void check_guards(OpKind op, const std::vector<GuardedBuffer>& buffers) {
  if (!std::ranges::all_of(buffers, &GuardedBuffer::is_intact)) {
    throw std::logic_error(std::string(op_name(op)) + " wrote outside of its results");
  }
}

}  // namespace

Types types_of(const Tensors& tensors) {
  Types types;
  for (const auto& tensor : tensors) {
    types.push_back(tensor ? std::optional(TensorType{tensor->dtype(), tensor->shape()}) : std::nullopt);
  }
  return types;
}

Tensors run_kernel(const std::function<void(const KernelCall&)>& kernel, OpKind op, const Attributes& attributes,
                   const Tensors& inputs, const Types& outputs, const CallOptions& options) {
  std::vector<GuardedBuffer> input_buffers(inputs.size());
  std::vector<GuardedBuffer> output_buffers(outputs.size());
  std::vector<TensorView> input_views(inputs.size());
  std::vector<TensorView> output_views(outputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i]) continue;
    input_buffers[i] = GuardedBuffer(inputs[i]->dense());
    input_views[i] = {inputs[i]->dtype(), inputs[i]->shape(), input_buffers[i].data()};
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i]) continue;
    const int operand = in_place_operand(options, i);
    if (operand < 0) {
      output_buffers[i] =
          GuardedBuffer(static_cast<size_t>(byte_size(outputs[i]->shape, outputs[i]->dtype)), options.poison);
    }
    GuardedBuffer& buffer = operand < 0 ? output_buffers[i] : input_buffers[static_cast<size_t>(operand)];
    output_views[i] = {outputs[i]->dtype, outputs[i]->shape, buffer.data()};
  }
  const Types input_types = types_of(inputs);
  std::vector<GuardedBuffer> workspace;
  workspace.emplace_back(static_cast<size_t>(op_quantities(op, {attributes, input_types, outputs}).workspace_bytes),
                         options.poison);

  kernel({.attributes = attributes,
          .inputs = input_views,
          .outputs = output_views,
          .step = options.step,
          .workspace = workspace[0].span()});

  check_operands(op, inputs, input_buffers, options);
  for (const auto* buffers : {&input_buffers, &output_buffers, &workspace}) check_guards(op, *buffers);
  Tensors results(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i]) continue;
    const int operand = in_place_operand(options, i);
    const GuardedBuffer& buffer = operand < 0 ? output_buffers[i] : input_buffers[static_cast<size_t>(operand)];
    results[i] = Literal(outputs[i]->dtype, outputs[i]->shape, buffer.content());
  }
  return results;
}

Tensors run_reference(OpKind op, const Attributes& attributes, const Tensors& inputs, const Types& outputs,
                      const CallOptions& options) {
  return run_kernel(reference_kernel(op), op, attributes, inputs, outputs, options);
}

const Literal& StepValues::at(const Graph& graph, ValueId value, size_t microbatch) const {
  const auto& found =
      graph.value(value).rate == Rate::per_step ? step[value.index()] : microbatches[microbatch][value.index()];
  MPC_CHECK(found.has_value(), "value " + graph.value(value).name + " was not computed");
  return *found;
}

namespace {

void run_node(const Graph& graph, const Node& node, StepContext step, StepValues& values) {
  const auto content = [&](ValueId id) -> std::optional<Literal>& {
    const bool is_step = graph.value(id).rate == Rate::per_step;
    Tensors& table = is_step ? values.step : values.microbatches[static_cast<size_t>(step.microbatch)];
    return table[id.index()];
  };
  Tensors inputs;
  for (const ValueId id : node.inputs) {
    inputs.push_back(id.is_valid() ? content(id) : std::nullopt);
    MPC_CHECK(!id.is_valid() || inputs.back().has_value(),
              graph.value(id).name + " has no content at " + describe(node));
  }
  const Tensors results = run_reference(node.op, node.attributes, inputs, mpc::types_of(graph, node.outputs),
                                        {.step = step, .in_place = {}});
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const ValueId id = node.outputs[i];
    if (!id.is_valid()) continue;
    content(id) = results[i];
    const auto replaced = aliased_input(node.op, static_cast<int>(i));
    if (replaced) content(node.inputs[static_cast<size_t>(*replaced)]) = results[i];
  }
}

// For each node of rate per_step: does it depend on what the micro-batches leave in a per_step value (an accumulated
// gradient)? The others run before the micro-batches, which may read them.
std::vector<bool> nodes_after_microbatches(const Graph& graph) {
  std::vector<bool> is_late(static_cast<size_t>(graph.node_count()));
  std::vector<bool> is_late_value(static_cast<size_t>(graph.value_count()));
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    bool late = node.rate == Rate::per_microbatch;
    for (const ValueId input : node.inputs) late = late || (input.is_valid() && is_late_value[input.index()]);
    is_late[static_cast<size_t>(i)] = late;
    for (const ValueId output : node.outputs) {
      if (output.is_valid()) is_late_value[output.index()] = late;
    }
  }
  return is_late;
}

}  // namespace

StepValues interpret(const Graph& graph, const Bindings& fixed, const std::vector<Bindings>& microbatches,
                     StepContext step) {
  const size_t count = static_cast<size_t>(graph.value_count());
  StepValues values{Tensors(count), std::vector<Tensors>(microbatches.size(), Tensors(count))};
  for (size_t i = 0; i < count; ++i) {
    const Value& value = graph.value(ValueId(i));
    if (value.kind == ValueKind::constant || value.kind == ValueKind::state) values.step[i] = value.literal;
  }
  for (const auto& [id, literal] : fixed) values.step[id.index()] = literal;
  for (size_t m = 0; m < microbatches.size(); ++m) {
    for (const auto& [id, literal] : microbatches[m]) values.microbatches[m][id.index()] = literal;
  }
  const std::vector<bool> is_late = nodes_after_microbatches(graph);
  const auto run_step_nodes = [&](bool late) {
    step.microbatch = 0;
    for (int i = 0; i < graph.node_count(); ++i) {
      const Node& node = graph.node(NodeId(i));
      if (node.rate == Rate::per_step && is_late[static_cast<size_t>(i)] == late) run_node(graph, node, step, values);
    }
  };
  run_step_nodes(false);
  for (size_t m = 0; m < microbatches.size(); ++m) {
    step.microbatch = static_cast<int32_t>(m);
    for (const Node& node : graph.nodes()) {
      if (node.rate == Rate::per_microbatch) run_node(graph, node, step, values);
    }
  }
  run_step_nodes(true);
  return values;
}

Literal literal_of(DType dtype, const Shape& shape, const std::vector<double>& numbers) {
  MPC_CHECK(static_cast<int64_t>(numbers.size()) == shape.elements(), "a literal needs a number for each element");
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(shape, dtype)));
  const size_t step = static_cast<size_t>(dtype_bytes(dtype));
  for (size_t i = 0; i < numbers.size(); ++i) write_number(dtype, bytes.data() + i * step, numbers[i]);
  return Literal(dtype, shape, std::move(bytes));
}

std::vector<double> numbers_of(const Literal& literal) {
  std::vector<double> numbers(static_cast<size_t>(literal.shape().elements()));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = literal.number(static_cast<int64_t>(i));
  return numbers;
}

}  // namespace mpc::test
