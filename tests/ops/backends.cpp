#include "tests/ops/backends.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "executor/cpu/cpu_kernels.h"

namespace mpc::test {
namespace {

using executor::NodeSpec;

NodeSpec::Operand operand(const std::optional<TensorType>& type) {
  if (!type) return {};
  return {type->dtype, type->shape, true, false};
}

std::variant<Tensors, Declined> run_cpu(OpKind op, const Attributes& attributes, const Tensors& inputs,
                                        const Types& outputs, const StepContext& step) {
  NodeSpec node;
  node.op = op;
  node.attributes = &attributes;
  for (const auto& type : types_of(inputs)) node.inputs.push_back(operand(type));
  for (const auto& type : outputs) node.outputs.push_back(operand(type));
  executor::KernelOrReason found = cpu::find_kernel(node);
  if (found.kernel == nullptr) return Declined{found.reason};
  CallOptions options;
  options.step = step;
  const auto run = [&] {
    return run_kernel([&](const KernelCall& call) { found.kernel->run(call); }, op, attributes, inputs, outputs,
                      options);
  };
  const Tensors first = run();
  options.poison = std::byte{0x5A};
  // A prepared kernel runs many times: the second run must give the same bits, into other garbage.
  if (run() != first) throw std::logic_error("two runs of " + std::string(found.kernel->name()) + " differ");
  return first;
}

}  // namespace

std::span<const Backend> backends() {
  static const std::vector<Backend> kBackends = {{"cpu", &run_cpu}};
  return kBackends;
}

}  // namespace mpc::test
