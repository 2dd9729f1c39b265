#include "tests/ops/backends.h"

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "executor/cpu/cpu_kernels.h"
#include "executor/cuda/kernel.h"
#include "tests/ops/cases.h"

namespace mpc::test {
namespace {

using executor::NodeSpec;

std::variant<Tensors, Declined> run_cpu(OpKind op, const Attributes& attributes, const Tensors& inputs,
                                        const Types& outputs, const StepContext& step) {
  const NodeSpec node = node_of(op, attributes, inputs, outputs);
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

std::variant<Tensors, Declined> run_cuda_on_host(OpKind op, const Attributes& attributes, const Tensors& inputs,
                                                 const Types& outputs, const StepContext& step) {
  const auto own = [](const NodeSpec& node) { return cuda::find_own_kernel(node, {}); };
  return run_cuda_kernel(own, op, attributes, inputs, outputs, step);
}

}  // namespace

std::variant<Tensors, Declined> run_cuda_kernel(const CudaKernelMaker& make, OpKind op, const Attributes& attributes,
                                                const Tensors& inputs, const Types& outputs, const StepContext& step) {
  cuda::KernelOrReason found = make(node_of(op, attributes, inputs, outputs));
  if (found.kernel == nullptr) return Declined{found.reason};
  mpc_cuda_step device_step{};
  device_step.step = step.step;
  device_step.seed = step.seed;
  struct alignas(256) Block {  // as devices align it
    std::byte bytes[256];
  };
  const size_t asked = static_cast<size_t>(found.kernel->workspace_bytes());
  std::vector<Block> blocks(asked / sizeof(Block) + 1);
  const std::span<std::byte> workspace(blocks.front().bytes, asked);
  std::ranges::fill(workspace, std::byte{0xFF});
  CallOptions options;
  options.step = step;
  const auto run = [&] {
    const auto call_kernel = [&](const KernelCall& call) {
      std::vector<void*> ins;
      std::vector<void*> outs;
      for (const TensorView& view : call.inputs) ins.push_back(view.data);
      for (const TensorView& view : call.outputs) outs.push_back(view.data);
      cuda::Launch launch;
      launch.inputs = ins;
      launch.outputs = outs;
      launch.workspace = workspace.data();
      launch.step = &device_step;
      launch.microbatch = step.microbatch;
      found.kernel->run(launch);
    };
    return run_kernel(call_kernel, op, attributes, inputs, outputs, options);
  };
  const Tensors first = run();
  if (device_step.fault != 0) throw std::logic_error("a valid index was reported");
  options.poison = std::byte{0x5A};
  std::ranges::fill(workspace, std::byte{0x5A});
  if (run() != first) throw std::logic_error("two runs of " + std::string(found.kernel->name()) + " differ");
  return first;
}

std::span<const Backend> backends() {
  static const std::vector<Backend> kBackends = {{"cpu", &run_cpu}, {"cuda on the host", &run_cuda_on_host}};
  return kBackends;
}

}  // namespace mpc::test
