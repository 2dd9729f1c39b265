#include "executor/cpu/onednn.h"

#include "compiler/base/checked.h"

namespace mpc::cpu {

const dnnl::engine& cpu_engine() {
  static const dnnl::engine kEngine(dnnl::engine::kind::cpu, 0);
  return kEngine;
}

dnnl::memory::desc plain_desc(const std::vector<int64_t>& dims) {
  std::vector<int64_t> strides(dims.size(), 1);
  for (size_t i = dims.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * dims[i];
  return {dims, dnnl::memory::data_type::f32, strides};
}

dnnl::memory unbound(const dnnl::memory::desc& desc) {
  return {desc, cpu_engine(), DNNL_MEMORY_NONE};
}

KernelOrReason try_onednn(const std::function<std::unique_ptr<Kernel>()>& make) {
  try {
    return {make(), {}};
  } catch (const dnnl::error& error) {
    return declined(std::string("oneDNN: ") + error.what());
  }
}

Operand::Operand(const dnnl::memory::desc& wanted, const dnnl::memory::desc& plain, Direction direction)
    : is_reordered_(wanted != plain), outer_(unbound(plain)), direction_(direction) {
  if (!is_reordered_) return;
  inner_ = unbound(wanted);
  reorder_ = direction == Direction::in ? dnnl::reorder(outer_, inner_) : dnnl::reorder(inner_, outer_);
}

int64_t Operand::scratch_bytes() const {
  constexpr int64_t kCacheLine = 64;
  return is_reordered_ ? align_up(static_cast<int64_t>(inner_.get_desc().get_size()), kCacheLine) : 0;
}

void Operand::bind(std::byte* data, std::byte* scratch) {
  outer_.set_data_handle(data);
  if (is_reordered_) inner_.set_data_handle(scratch);
}

void Operand::reorder(dnnl::stream& stream) {
  if (!is_reordered_) return;
  if (direction_ == Direction::in) {
    reorder_.execute(stream, outer_, inner_);
  } else {
    reorder_.execute(stream, inner_, outer_);
  }
}

}  // namespace mpc::cpu
