#include "executor/cpu/support.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace mpc::cpu {
namespace {

class PlainKernel final : public Kernel {
 public:
  PlainKernel(std::string_view name, PlainRun run, int threads) : name_(name), run_(run), threads_(threads) {}
  void run(const KernelCall& call) override { run_(call, threads_); }
  std::string_view name() const override { return name_; }

 private:
  std::string_view name_;  // a string literal
  PlainRun run_;
  int threads_;
};

struct Memory {
  ~Memory() { std::free(data); }
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

template <class F>
bool any_operand(const NodeSpec& node, F&& f) {
  const auto matches = [&](const NodeSpec::Operand& operand) { return operand.is_present && f(operand); };
  return std::any_of(node.inputs.begin(), node.inputs.end(), matches) ||
         std::any_of(node.outputs.begin(), node.outputs.end(), matches);
}

}  // namespace

KernelOrReason plain_kernel(std::string_view name, PlainRun run, int threads) {
  return {std::make_unique<PlainKernel>(name, run, threads), {}};
}

bool all_of_type(const NodeSpec& node, DType dtype) {
  return !any_operand(node, [&](const NodeSpec::Operand& operand) { return operand.dtype != dtype; });
}

bool has_empty_operand(const NodeSpec& node) {
  return any_operand(node, [](const NodeSpec::Operand& operand) { return operand.shape.elements() == 0; });
}

void parallel_for(int threads, int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& f) {
  const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, threads);
#ifdef _OPENMP
  if (parts > 1) {
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static)
    for (int64_t part = 0; part < parts; ++part) f(count * part / parts, count * (part + 1) / parts);
    return;
  }
#endif
  if (parts >= 1 && count > 0) f(0, count);
}

std::span<std::byte> thread_scratch(int64_t bytes, Scratch user) {
  constexpr size_t kAlignment = 64;
  thread_local std::array<Memory, 2> memories;
  Memory& scratch = memories[static_cast<size_t>(user)];
  if (bytes > scratch.bytes) {
    std::free(scratch.data);
    scratch.bytes = 0;
    const size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
    scratch.data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
    if (scratch.data == nullptr) throw std::bad_alloc();
    scratch.bytes = static_cast<int64_t>(rounded);
  }
  return {scratch.data, static_cast<size_t>(bytes)};
}

}  // namespace mpc::cpu
