#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/ids.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/shape.h"
#include "executor/kernel.h"

namespace mpc::executor {

/// One node as a backend sees it when it chooses a kernel.
struct NodeSpec {
  OpKind op{};
  const Attributes* attributes = nullptr;
  struct Operand {
    DType dtype = DType::f32;
    Shape shape;
    bool is_present = false;
    bool is_constant = false;  // content never changes between runs, except as forget_constants() announces
  };
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;
  int threads = 1;
  // Where the node stands in its plan: its number, its device, and the queue that runs it.
  uint32_t node = 0;
  DeviceId device{0};
  uint32_t queue = 0;
};

/// The code of one node, prepared for its shapes. run() may be called many times, from one thread at a time.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void run(const KernelCall& call) = 0;
  /// The content of constant operands was changed between two runs: what was derived from it is to be derived again.
  virtual void forget_constants() {}
  /// What it keeps beside the arena from its first run on: constant operands in a layout of its own.
  virtual int64_t kept_bytes() const { return 0; }
  /// For reports: "cpu:onednn matmul".
  virtual std::string_view name() const = 0;
};

/// A kernel for the node, or a reason why there is none.
struct KernelOrReason {
  std::unique_ptr<Kernel> kernel;
  std::string reason;
};
using KernelFactory = KernelOrReason (*)(const NodeSpec&);

}  // namespace mpc::executor
