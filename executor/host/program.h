#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "compiler/plan/plan.h"
#include "executor/backend.h"
#include "executor/host/arena.h"

namespace mpc::executor {

/// Finds the kernel of a node; .reason says why faster ones declined, even when there is a kernel. Must not fail.
using KernelSource = std::function<KernelOrReason(const NodeSpec&)>;

/// A plan bound to memory: every instruction with the addresses of its operands and its kernel, so that executing it
/// neither looks anything up nor allocates.
class Program {
 public:
  /// A copy from one arena to another.
  struct Copy {
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    int64_t bytes = 0;
  };
  struct Bound {
    Kernel* kernel = nullptr;                         // run
    const Attributes* attributes = nullptr;           // run
    std::vector<TensorView> inputs;                   // run; fetch: its source
    std::vector<TensorView> outputs;                  // run; feed: its destination
    std::span<std::byte> workspace;                   // run
    std::vector<Copy> copies;                         // recv: what the transfer moves (its send moves nothing)
    std::vector<std::span<std::byte>> poison_before;  // outputs that are written whole
    std::vector<std::span<std::byte>> poison_after;   // slices that nothing reads any more
    PlanPhase phase = PlanPhase::forward;
    bool is_in_place_update = false;  // writes the next content of a persistent value, in the update phase
  };
  struct Choice {
    PlanIndex node = 0;
    std::string kernel;
    std::string declined;
  };

  /// Builds the kernels: one per (node, variant, queue), made under the OpenMP thread count of the node's device.
  /// @pre check_plan(plan) passed; `plan` and `arenas` outlive the program and stay where they are.
  Program(const Plan& plan, std::span<const Arena> arenas, const KernelSource& kernels, bool with_poison);

  const Plan& plan() const { return plan_; }
  const Bound& bound(PlanIndex instruction) const { return bound_[instruction]; }
  const std::vector<Choice>& choices() const { return choices_; }
  /// Beside the device's arena: constants in the layouts of kernels, as far as its capacity leaves room.
  int64_t kept_bytes(DeviceId device) const { return kept_bytes_[device.index()]; }
  void forget_constants();
  /// All memory of a device.
  std::span<std::byte> arena(DeviceId device) const;
  /// The memory of a slice (as many bytes as its value has for its micro-batch).
  std::span<std::byte> memory(PlanIndex slice) const;
  /// The node, transfer, input or output that an instruction is about, for messages.
  std::string describe(PlanIndex instruction) const;

 private:
  int variant(PlanIndex slice) const;
  TensorView view(PlanIndex slice) const;
  void bind_run(PlanIndex instruction, const KernelSource& kernels);
  void bind_recv(PlanIndex instruction);
  Kernel* kernel_of(const Instruction& instruction, const Bound& bound, const KernelSource& kernels);
  void find_poison();

  const Plan& plan_;
  std::span<const Arena> arenas_;
  std::vector<Bound> bound_;
  std::vector<bool> is_updated_;  // per value: replaced at the end of a step
  std::vector<bool> is_next_;     // per value: replaces a persistent one
  std::map<std::tuple<PlanIndex, int, PlanIndex>, std::unique_ptr<Kernel>> kernels_;  // (node, variant, queue)
  std::vector<Choice> choices_;
  std::vector<int64_t> kept_bytes_;  // by device
};

}  // namespace mpc::executor
