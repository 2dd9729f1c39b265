#include "executor/measure_kernel.h"

#include <algorithm>
#include <ctime>
#include <map>
#include <utility>

#include "executor/cpu/cpu_kernels.h"
#include "executor/host/caches.h"
#include "executor/host/float_environment.h"
#include "executor/host/threads.h"

namespace mpc::executor {
namespace {

double now_s(int threads) {
  timespec time{};
  ::clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  constexpr double kNano = 1e-9;
  return static_cast<double>(time.tv_sec) + kNano * static_cast<double>(time.tv_nsec);
}

/// Cold operands have copies that no cache can hold together, and every call takes the next ones.
class Copies {
 public:
  Copies(MeasuredOperands& operands, const std::vector<bool>& is_cold, std::optional<Arena>& memory) {
    // What is smaller takes no longer from memory than the call itself.
    constexpr size_t kSmall = 32 << 10;
    const std::span<const std::byte> content = operands.content();
    if (std::ranges::find(is_cold, true) == is_cold.end() || content.size() < kSmall) return;
    bytes_ = static_cast<int64_t>(content.size());
    count_ = (last_cache_bytes() * 3 / 2 + bytes_ - 1) / bytes_;
    if (!memory || memory->bytes() < count_ * bytes_) {
      memory.reset();
      memory.emplace("cpu", count_ * bytes_);
    }
    for (int64_t i = 0; i < count_; ++i) std::ranges::copy(content, memory->data() + i * bytes_);
    operands.move_to(memory->data());
    std::map<std::byte*, bool> is_cold_at;  // an output that lies in an input is as that
    size_t operand = 0;
    for (auto* list : {&operands.inputs, &operands.outputs}) {
      for (TensorView& view : *list) {
        const bool is_cold_here = is_cold[operand++];
        if (view.data == nullptr) continue;
        const auto [at, is_new] = is_cold_at.try_emplace(view.data, is_cold_here);
        if (at->second) {
          cold_.push_back({&view, view.data});
        } else if (is_new) {
          held_.push_back({view.data, static_cast<size_t>(view.bytes())});
        }
      }
    }
    held_.push_back(operands.workspace);
  }

  void next() {
    if (count_ == 0) return;
    at_ = (at_ + 1) % count_;
    for (const auto& [view, first] : cold_) view->data = first + at_ * bytes_;
    for (const std::span<const std::byte> bytes : held_) bring_to_cache(bytes);
  }

 private:
  int64_t bytes_ = 0;  // of one copy
  int64_t count_ = 0;
  int64_t at_ = 0;
  std::vector<std::pair<TensorView*, std::byte*>> cold_;  // and where its first copy is
  std::vector<std::span<const std::byte>> held_;
};

}  // namespace

double HostKernelTimer::seconds_of(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options) {
  const FloatEnvironment floats;
  const OpenMpThreads threads(spec.threads);
  MeasuredOperands operands(spec, workspace_bytes, options);
  const KernelOrReason found = cpu::find_kernel(spec);
  // The second micro-batch: an accumulation adds, as it does in all but the first.
  const KernelCall call{*spec.attributes, operands.inputs, operands.outputs, {0, 1, 0}, operands.workspace};
  Copies copies(operands, options.is_cold, memory_);
  return median_seconds(options, [&] {
    copies.next();
    const double start = now_s(spec.threads);
    if (found.kernel != nullptr) {
      found.kernel->run(call);
    } else {
      reference_kernel(spec.op)(call);
    }
    return now_s(spec.threads) - start;
  });
}

}  // namespace mpc::executor
