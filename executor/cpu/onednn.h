#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "executor/cpu/support.h"

// What the kernels on oneDNN share. Primitives are made when the kernel is; a run only sets addresses and executes.
// oneDNN takes as many threads as OpenMP has on the thread that makes (and runs) the primitive.
//
// Scratch memory. oneDNN's own belongs to the thread that makes a primitive: on another thread it is absent or too
// small. A session makes its kernels on the caller's thread and runs them on the devices' threads, so every primitive
// is made with caller_scratch() and given a part of the running thread's scratch memory.

namespace mpc::cpu {

/// The engine of this process (oneDNN engines may be shared between threads).
const dnnl::engine& cpu_engine();

/// Row-major f32 memory of these dimensions.
dnnl::memory::desc plain_desc(const std::vector<int64_t>& dims);
inline dnnl::memory::desc any_desc(const std::vector<int64_t>& dims) {
  return {dims, dnnl::memory::data_type::f32, dnnl::memory::format_tag::any};
}

/// Memory of which only the address is missing.
dnnl::memory unbound(const dnnl::memory::desc& desc);

/// Attributes of a primitive that is given its scratch memory with every run.
dnnl::primitive_attr caller_scratch();

/// The scratch memory of a primitive: a part of the running thread's.
class ScratchMemory {
 public:
  ScratchMemory() = default;
  /// @param desc the primitive's scratchpad_desc().
  explicit ScratchMemory(const dnnl::memory::desc& desc);
  int64_t bytes() const { return bytes_; }
  /// Adds itself to the arguments of the primitive, if that needs any.
  void add_to(std::unordered_map<int, dnnl::memory>& arguments) const;
  /// @param scratch bytes() bytes, at a multiple of 64.
  void bind(std::byte* scratch);

 private:
  int64_t bytes_ = 0;
  dnnl::memory memory_;
};

/// Calls `make`; what oneDNN throws becomes the reason why there is no kernel.
KernelOrReason try_onednn(const std::function<std::unique_ptr<Kernel>()>& make);

/// One operand of a primitive: in the caller's row-major layout, or in the layout the primitive likes best, with a
/// reorder between the two and a place in the thread's scratch memory.
class Operand {
 public:
  enum class Direction : uint8_t { in, out };
  /// @param wanted the primitive's layout; @param plain the caller's.
  Operand(const dnnl::memory::desc& wanted, const dnnl::memory::desc& plain, Direction direction);
  bool is_reordered() const { return is_reordered_; }
  /// For the reordered data and the reorder itself.
  int64_t scratch_bytes() const;
  /// Binds to the caller's data and, if it is reordered, to `scratch`.
  void bind(std::byte* data, std::byte* scratch);
  void reorder(dnnl::stream& stream);
  const dnnl::memory& memory() const { return is_reordered_ ? inner_ : outer_; }

 private:
  bool is_reordered_;
  dnnl::memory outer_;
  dnnl::memory inner_;
  dnnl::reorder reorder_;
  ScratchMemory reorder_scratch_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

/// An operand that may be constant: its reordered data is then kept from the first run on, beside the caller's.
class KeptOperand {
 public:
  KeptOperand(const dnnl::memory::desc& wanted, const dnnl::memory::desc& plain, bool is_constant);
  /// Of the thread's scratch memory.
  int64_t scratch_bytes() const { return is_kept_ ? 0 : operand_.scratch_bytes(); }
  void bind(std::byte* data, std::byte* scratch);
  void reorder(dnnl::stream& stream);
  void forget() { is_ready_ = false; }
  int64_t kept_bytes() const { return static_cast<int64_t>(kept_.size()); }
  const dnnl::memory& memory() const { return operand_.memory(); }

 private:
  Operand operand_;
  bool is_kept_;
  bool is_ready_ = false;
  std::vector<std::byte> kept_;
};

}  // namespace mpc::cpu
