#include "executor/cpu/onednn.h"

#include "compiler/base/checked.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kCacheLine = 64;

}  // namespace

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

dnnl::primitive_attr caller_scratch() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

ScratchMemory::ScratchMemory(const dnnl::memory::desc& desc) {
  const auto needed = static_cast<int64_t>(desc.get_size());
  if (needed == 0) return;
  bytes_ = align_up(needed, kCacheLine);
  memory_ = unbound(desc);
}

void ScratchMemory::add_to(std::unordered_map<int, dnnl::memory>& arguments) const {
  if (bytes_ > 0) arguments.insert({DNNL_ARG_SCRATCHPAD, memory_});
}

void ScratchMemory::bind(std::byte* scratch) {
  if (bytes_ > 0) memory_.set_data_handle(scratch);
}

Operand::Operand(const dnnl::memory::desc& wanted, const dnnl::memory::desc& plain, Direction direction)
    : is_reordered_(wanted != plain), outer_(unbound(plain)) {
  if (!is_reordered_) return;
  inner_ = unbound(wanted);
  const dnnl::memory& from = direction == Direction::in ? outer_ : inner_;
  const dnnl::memory& to = direction == Direction::in ? inner_ : outer_;
  const dnnl::reorder::primitive_desc desc(from, to, caller_scratch());
  reorder_ = dnnl::reorder(desc);
  reorder_scratch_ = ScratchMemory(desc.scratchpad_desc());
  arguments_ = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  reorder_scratch_.add_to(arguments_);
}

int64_t Operand::scratch_bytes() const {
  if (!is_reordered_) return 0;
  return reorder_scratch_.bytes() + align_up(static_cast<int64_t>(inner_.get_desc().get_size()), kCacheLine);
}

void Operand::bind(std::byte* data, std::byte* scratch) {
  outer_.set_data_handle(data);
  if (!is_reordered_) return;
  reorder_scratch_.bind(scratch);
  inner_.set_data_handle(scratch + reorder_scratch_.bytes());
}

void Operand::reorder(dnnl::stream& stream) {
  if (is_reordered_) reorder_.execute(stream, arguments_);
}

KeptOperand::KeptOperand(const dnnl::memory::desc& wanted, const dnnl::memory::desc& plain, bool is_constant)
    : operand_(wanted, plain, Operand::Direction::in), is_kept_(is_constant && operand_.is_reordered()) {
  if (is_kept_) kept_.resize(static_cast<size_t>(operand_.scratch_bytes() + kCacheLine));
}

void KeptOperand::bind(std::byte* data, std::byte* scratch) {
  if (is_kept_) {
    const auto address = reinterpret_cast<uintptr_t>(kept_.data());
    scratch = kept_.data() + (kCacheLine - address % kCacheLine) % kCacheLine;
  }
  operand_.bind(data, scratch);
}

void KeptOperand::reorder(dnnl::stream& stream) {
  if (!is_kept_ || !is_ready_) operand_.reorder(stream);
  is_ready_ = true;
}

}  // namespace mpc::cpu
