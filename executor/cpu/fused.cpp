// Elementwise: a program of elementwise operators on one tile after another. A tile fits the first-level cache, so
// operands are read and the result is written once, whatever the number of steps. Each step runs the kernel that its
// operator has alone, on the tile: the bits are the same by construction.

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "compiler/base/checked.h"
#include "compiler/base/elementwise_program.h"
#include "executor/cpu/cpu_kernels.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kTile = 2048;    // elements: 8 KiB of f32, a few of which fit the first-level cache
constexpr int64_t kGrain = 16384;  // elements below which a second thread costs more than it saves
constexpr int64_t kAlignment = 64;

/// How an input comes to a tile.
enum class Feed : uint8_t {
  direct,  // it has the shape of the result: the tile is read where it is
  scalar,  // one element, which the kernels of steps repeat
  copied,  // broadcast: repeated into the tile's scratch
};

/// An input broadcast to the shape of the result, as runs of elements that stand in a row or repeat.
class Broadcast {
 public:
  Broadcast(const Shape& from, const Shape& to, DType dtype) : bytes_(dtype_bytes(dtype)) {
    int64_t stride = 1;
    for (int axis = to.rank() - 1; axis >= 0; --axis) {
      const int own = axis - (to.rank() - from.rank());
      const int64_t count = own >= 0 ? from[own] : 1;
      const int64_t step = count == 1 ? 0 : stride;
      stride *= count;
      if (to[axis] == 1) continue;
      if (!dims_.empty() && step == dims_.back().step * dims_.back().count) {
        dims_.back().count *= to[axis];
      } else {
        dims_.push_back({to[axis], step});
      }
    }
    if (dims_.empty()) dims_.push_back({1, 0});
  }

  /// Elements [begin, begin + count) of the broadcast tensor.
  void copy(const std::byte* from, int64_t begin, int64_t count, std::byte* to) const {
    const Dim& inner = dims_.front();
    while (count > 0) {
      int64_t rest = begin / inner.count;
      const int64_t at = begin % inner.count;
      int64_t offset = at * inner.step;
      for (size_t d = 1; d < dims_.size(); ++d) {
        offset += rest % dims_[d].count * dims_[d].step;
        rest /= dims_[d].count;
      }
      const int64_t run = std::min(count, inner.count - at);
      if (inner.step == 1) {
        std::memcpy(to, from + offset * bytes_, static_cast<size_t>(run * bytes_));
      } else {
        // Innermost, an axis of the result that the input has not is the only other one.
        repeat(from + offset * bytes_, run, to);
      }
      to += run * bytes_;
      begin += run;
      count -= run;
    }
  }

 private:
  struct Dim {
    int64_t count;
    int64_t step;  // in elements
  };

  template <class Word>
  static void repeat_word(const std::byte* element, int64_t count, std::byte* to) {
    Word word;
    std::memcpy(&word, element, sizeof(Word));
    for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * static_cast<int64_t>(sizeof(Word)), &word, sizeof(Word));
  }

  void repeat(const std::byte* element, int64_t count, std::byte* to) const {
    switch (bytes_) {
      case 1:
        return repeat_word<uint8_t>(element, count, to);
      case 2:
        return repeat_word<uint16_t>(element, count, to);
      case 4:
        return repeat_word<uint32_t>(element, count, to);
      default:
        return repeat_word<uint64_t>(element, count, to);
    }
  }

  std::vector<Dim> dims_;  // innermost first
  int64_t bytes_;
};

struct Input {
  Feed feed = Feed::direct;
  int64_t bytes = 0;  // per element
  std::unique_ptr<Broadcast> broadcast;
};

/// The steps on tiles of one size, for one thread.
class TileProgram {
 public:
  /// @param result the register that the last step writes; its memory and that of direct inputs are set for every tile.
  TileProgram(const NodeSpec& node, const std::vector<ElementwiseStep>& steps, const std::vector<Input>& inputs,
              int64_t elements) {
    const Shape tile{elements};
    for (size_t i = 0; i < inputs.size(); ++i) {
      registers_.push_back({node.inputs[i].dtype, inputs[i].feed == Feed::scalar ? Shape{1} : tile, nullptr});
    }
    for (const ElementwiseStep& step : steps) {
      registers_.push_back({step.dtype, tile, nullptr});
      add_step(step);
    }
  }

  std::string_view missing() const { return missing_; }
  TensorView& at(size_t index) { return registers_[index]; }

  void run(const StepContext& context) {
    for (Step& step : steps_) {
      for (size_t i = 0; i < step.operands.size(); ++i) {
        if (step.operands[i] != ElementwiseStep::kAbsent)
          step.views[i] = registers_[static_cast<size_t>(step.operands[i])];
      }
      const KernelCall call{step.attributes, step.views, {&registers_[step.result], 1}, context, {}};
      if (step.kernel != nullptr) {
        step.kernel->run(call);
      } else {
        step.reference(call);
      }
    }
  }

 private:
  struct Step {
    Attributes attributes;
    std::vector<int> operands;
    std::vector<TensorView> views;
    size_t result = 0;
    std::unique_ptr<Kernel> kernel;
    ReferenceKernel reference = nullptr;  // where the operator has no faster one for these types
  };

  void add_step(const ElementwiseStep& step) {
    Step made{step.attributes, step.operands, {}, registers_.size() - 1, nullptr, nullptr};
    made.views.resize(step.operands.size());
    NodeSpec spec;
    spec.op = step.op;
    spec.attributes = &made.attributes;
    const auto operand_of = [](const TensorView& view) {
      return NodeSpec::Operand{view.dtype, view.shape, true, false};
    };
    for (const int operand : step.operands) {
      spec.inputs.push_back(operand == ElementwiseStep::kAbsent ? NodeSpec::Operand{}
                                                                : operand_of(registers_[static_cast<size_t>(operand)]));
    }
    spec.outputs.push_back(operand_of(registers_.back()));
    KernelOrReason found = find_kernel(spec);
    made.kernel = std::move(found.kernel);
    if (made.kernel == nullptr) {
      made.reference = reference_kernel(step.op);
      if (missing_.empty()) missing_ = op_name(step.op);
    }
    steps_.push_back(std::move(made));
  }

  std::vector<TensorView> registers_;  // inputs, then results of steps
  std::vector<Step> steps_;
  std::string_view missing_;  // the first operator that runs its reference kernel
};

class ElementwiseKernel final : public Kernel {
 public:
  explicit ElementwiseKernel(const NodeSpec& node)
      : steps_(parse_steps("Elementwise", node.attributes->texts("steps"), static_cast<int>(node.inputs.size()))),
        elements_(node.outputs[0].shape.elements()),
        result_bytes_(dtype_bytes(node.outputs[0].dtype)) {
    for (const NodeSpec::Operand& operand : node.inputs) inputs_.push_back(input_of(operand, node.outputs[0].shape));
    place_registers();
    const int64_t tail = elements_ % kTile;
    for (int t = 0; t < node.threads; ++t) {
      workers_.push_back(
          std::make_unique<Worker>(Worker{std::vector<std::byte>(static_cast<size_t>(scratch_bytes_ + kAlignment)),
                                          {node, steps_, inputs_, kTile},
                                          {node, steps_, inputs_, std::max<int64_t>(tail, 1)}}));
    }
  }

  bool has_reference_steps() const { return !workers_.front()->whole.missing().empty(); }

  void run(const KernelCall& call) override {
    const int64_t tiles = (elements_ + kTile - 1) / kTile;
    const auto workers = static_cast<int64_t>(workers_.size());
    const int64_t parts = std::clamp<int64_t>(elements_ / kGrain, 1, workers);
    parallel_for(static_cast<int>(parts), parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        for (int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile) {
          run_tile(call, *workers_[static_cast<size_t>(part)], tile * kTile);
        }
      }
    });
  }
  std::string_view name() const override { return has_reference_steps() ? "cpu:fused, reference steps" : "cpu:fused"; }

 private:
  struct Worker {
    std::vector<std::byte> scratch;
    TileProgram whole;
    TileProgram tail;
  };

  static Input input_of(const NodeSpec::Operand& operand, const Shape& result) {
    Input input{Feed::copied, dtype_bytes(operand.dtype), nullptr};
    if (operand.shape == result) {
      input.feed = Feed::direct;
    } else if (operand.shape.elements() == 1) {
      input.feed = Feed::scalar;
    } else {
      input.broadcast = std::make_unique<Broadcast>(operand.shape, result, operand.dtype);
    }
    return input;
  }

  // Where results of steps and copied inputs lie in the scratch. A result takes memory that nobody reads after it.
  void place_registers() {
    const size_t registers = inputs_.size() + steps_.size();
    std::vector<size_t> last_reader(registers, 0);
    for (size_t s = 0; s < steps_.size(); ++s) {
      for (const int operand : steps_[s].operands) {
        if (operand != ElementwiseStep::kAbsent) last_reader[static_cast<size_t>(operand)] = s;
      }
    }
    slot_of_.assign(registers, kNoSlot);
    std::vector<int64_t> slot_bytes;
    std::vector<int64_t> free_from;  // per slot: the first step that may write it
    const auto take = [&](size_t reg, int64_t first_step, int64_t element_bytes) {
      const int64_t bytes = align_up(kTile * element_bytes, kAlignment);
      size_t slot = 0;
      while (slot < slot_bytes.size() && (free_from[slot] > first_step || slot_bytes[slot] < bytes)) ++slot;
      if (slot == slot_bytes.size()) {
        slot_bytes.push_back(bytes);
        free_from.push_back(0);
      }
      free_from[slot] = static_cast<int64_t>(last_reader[reg]) + 1;
      slot_of_[reg] = static_cast<int>(slot);
    };
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].feed == Feed::copied) take(i, -1, inputs_[i].bytes);
    }
    for (size_t s = 0; s + 1 < steps_.size(); ++s)
      take(inputs_.size() + s, static_cast<int64_t>(s), dtype_bytes(steps_[s].dtype));
    for (const int64_t bytes : slot_bytes) {
      slot_offset_.push_back(scratch_bytes_);
      scratch_bytes_ += bytes;
    }
  }

  void run_tile(const KernelCall& call, Worker& worker, int64_t begin) const {
    const int64_t count = std::min(kTile, elements_ - begin);
    TileProgram& program = count == kTile ? worker.whole : worker.tail;
    const auto address = reinterpret_cast<uintptr_t>(worker.scratch.data());
    std::byte* scratch = worker.scratch.data() + (kAlignment - static_cast<int64_t>(address % kAlignment)) % kAlignment;
    const size_t registers = inputs_.size() + steps_.size();
    for (size_t r = 0; r < registers; ++r) {
      if (slot_of_[r] != kNoSlot) program.at(r).data = scratch + slot_offset_[static_cast<size_t>(slot_of_[r])];
    }
    for (size_t i = 0; i < inputs_.size(); ++i) {
      std::byte* data = call.inputs[i].data;
      if (inputs_[i].feed == Feed::copied) {
        inputs_[i].broadcast->copy(data, begin, count, program.at(i).data);
      } else {
        program.at(i).data = inputs_[i].feed == Feed::direct ? data + begin * inputs_[i].bytes : data;
      }
    }
    program.at(registers - 1).data = call.outputs[0].data + begin * result_bytes_;
    program.run(call.step);
  }

  static constexpr int kNoSlot = -1;
  std::vector<ElementwiseStep> steps_;
  std::vector<Input> inputs_;
  int64_t elements_;
  int64_t result_bytes_;
  std::vector<int> slot_of_;  // per register
  std::vector<int64_t> slot_offset_;
  int64_t scratch_bytes_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

KernelOrReason fused_tiles(const NodeSpec& node) {
  return {std::make_unique<ElementwiseKernel>(node), {}};
}

}  // namespace mpc::cpu
