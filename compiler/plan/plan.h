#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/attributes.h"
#include "compiler/base/dtype.h"
#include "compiler/base/ids.h"
#include "compiler/base/literal.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/shape.h"
#include "compiler/base/weight_recipe.h"

// The plan: everything an executor needs for a step, as plain data. The only thing that passes and executors share.
//
// A step processes `microbatches` micro-batches. All have the same shapes (variant 0), except that the last may be
// smaller (variant 1, when has_tail). Values, nodes and transfers are templates; slices and instructions are
// instances of them for one micro-batch (or for the step: microbatch == kPerStep).
//
// Memory. Each device has one arena of arena_bytes. A slice is a fixed range of it that holds one instance of one
// value. Slices of parameters, states, constants, accumulated gradients and per-step inputs are never shared; other
// ranges are reused over time. A value that is updated in place and the values that replace it have slices of the same
// range. A value has at most one slice per device and instance. Its instances are the micro-batches, or the step
// (per_step). A constant whose content differs between the variants is the exception: it is per_step and has one slice
// per variant, with the micro-batch 0 for variant 0 and microbatches - 1 for variant 1 (Plan::instance_of).
//
// Execution. `instructions` is one total order. Each instruction belongs to a queue; a queue executes its
// instructions in that order, one at a time. Queues of different devices (or of one device) run concurrently; `wait e`
// blocks its queue until `record e` was executed on another one. A send and its recv are adjacent in the total order,
// and meet: the recv completes when the bytes have arrived, the send when its slices may be overwritten (which says
// nothing about the receiver: a transport may have kept a copy). Since every wait comes after its record and every recv
// right after its send, executing in the total order never blocks: no interleaving of the queues can deadlock. feed and
// fetch stand on the compute queue of the slice's device. An input is fed once per instance and device, an output is
// fetched once per instance. Every read happens after the write it needs, and every overwrite after all reads of what
// was there, by queue order, record/wait and send/recv: check.h proves it with vector clocks for every plan that is
// loaded.

namespace mpc {

using PlanIndex = uint32_t;
inline constexpr PlanIndex kNone = std::numeric_limits<PlanIndex>::max();
inline constexpr int32_t kPerStep = -1;
/// Every slice starts at a multiple of this (64: a cache line and an AVX-512 vector; 256 serves CUDA libraries).
inline constexpr int64_t kSliceAlignment = 256;
inline constexpr int kPlanVersion = 1;

/// Bytes of a device's arena by what they hold, when the arena is fullest. Their sum is at most the peak: alignment and
/// fragmentation are the rest.
struct MemoryUse {
  int64_t parameter_bytes = 0;
  int64_t gradient_bytes = 0;    // accumulated gradients
  int64_t optimizer_bytes = 0;   // states
  int64_t activation_bytes = 0;  // inputs, constants and everything nodes make, at the fullest moment
  int64_t workspace_bytes = 0;
  int64_t staging_bytes = 0;  // copies received from other devices, at the fullest moment
  bool operator==(const MemoryUse&) const = default;
};

struct PlanDevice {
  std::string name;      // "cpu:0", "cuda:1"
  std::string backend;   // "cpu", "cuda"
  std::string hardware;  // row of the device table the rates come from
  int threads = 1;       // CPU: threads a kernel may use
  int64_t capacity_bytes = 0;
  int64_t arena_bytes = 0;  // the peak
  MemoryUse memory;
  double flops = 0;    // per step
  double seconds = 0;  // predicted busy time of the compute queue per step
  bool operator==(const PlanDevice&) const = default;
};

struct PlanLink {
  DeviceId from;
  DeviceId to;
  double bytes_per_second = 0;
  double latency_s = 0;
  bool operator==(const PlanLink&) const = default;
};

enum class PlanValueKind : uint8_t { input, parameter, state, constant, temporary };
enum class PlanPhase : uint8_t { forward, input_grad, weight_grad, update };

struct PlanValue {
  std::string name;
  DType dtype = DType::f32;
  std::vector<Shape> shapes;  // one per variant
  PlanValueKind kind = PlanValueKind::temporary;
  bool per_step = false;
  bool is_gradient = false;       // an accumulated gradient
  std::string source;             // parameter: the initializer's name in the model
  WeightRecipe recipe = {};       // parameter: how it is made of more than that, or in another order
  std::vector<Literal> literals;  // constant: content per variant; state: initial content (one)
  bool operator==(const PlanValue&) const = default;
};

struct PlanNode {
  OpKind op{};
  std::string name;
  std::string origin;
  PlanPhase phase = PlanPhase::forward;
  DeviceId device;
  bool per_step = false;
  std::vector<Attributes> attributes;  // one per variant
  std::vector<PlanIndex> inputs;       // values; kNone for an absent operand
  std::vector<PlanIndex> outputs;
  std::vector<double> flops;    // per variant
  std::vector<double> seconds;  // predicted, per variant
  int64_t workspace_bytes = 0;
  bool operator==(const PlanNode&) const = default;
};

/// A copy of values from one device to another, in one piece.
struct PlanTransfer {
  std::string name;
  DeviceId from;
  DeviceId to;
  PlanPhase phase = PlanPhase::forward;
  bool per_step = false;
  std::vector<PlanIndex> sources;       // values on `from`
  std::vector<PlanIndex> destinations;  // their copies on `to`
  std::vector<double> seconds;          // predicted, per variant
  bool operator==(const PlanTransfer&) const = default;
};

struct PlanSlice {
  PlanIndex value = kNone;  // kNone: workspace
  int32_t microbatch = kPerStep;
  DeviceId device;
  int64_t offset = 0;
  int64_t bytes = 0;
  bool operator==(const PlanSlice&) const = default;
};

enum class QueueKind : uint8_t { compute, send, recv };

struct PlanQueue {
  DeviceId device;
  QueueKind kind = QueueKind::compute;
  DeviceId peer;  // send, recv
  bool operator==(const PlanQueue&) const = default;
};

enum class Action : uint8_t {
  run,     // node `index` on its slices
  send,    // transfer `index`: reads
  recv,    // transfer `index`: writes
  feed,    // host -> device: plan input `index` into writes[0]
  fetch,   // device -> host: plan output `index` from reads[0]
  record,  // event `index`
  wait,    // event `index`
};

struct Instruction {
  Action action = Action::run;
  PlanIndex queue = 0;
  PlanIndex index = 0;
  int32_t microbatch = kPerStep;
  /// Slices, in operand order (run: node inputs / outputs, kNone for an absent one).
  std::vector<PlanIndex> reads;
  std::vector<PlanIndex> writes;
  PlanIndex workspace = kNone;
  double start_s = 0;  // predicted start within the step
  bool operator==(const Instruction&) const = default;
};

struct PlanInput {
  std::string name;
  PlanIndex value = kNone;
  /// Is dimension 0 the batch, cut into micro-batches? Otherwise every micro-batch gets the whole tensor.
  bool is_batched = true;
  /// What the session itself supplies, or `data` for what the caller binds.
  enum class Role : uint8_t { data, labels, step, learning_rate_scale, label_share };
  Role role = Role::data;
  std::optional<int64_t> ignored_label = {};  // labels: what counts nothing; label_share is one over the others' number
  bool is_supplied_by_caller() const { return role == Role::data || role == Role::labels; }
  bool operator==(const PlanInput&) const = default;
};

struct PlanOutput {
  std::string name;
  PlanIndex value = kNone;
  /// How the micro-batches' instances make the result of the step.
  enum class Combine : uint8_t { concatenate, sum, last };
  Combine combine = Combine::concatenate;
  bool operator==(const PlanOutput&) const = default;
};

struct PlanUpdate {
  PlanIndex persistent = kNone;
  PlanIndex next = kNone;
  bool operator==(const PlanUpdate&) const = default;
};

struct PlanGradient {
  PlanIndex parameter = kNone;
  PlanIndex gradient = kNone;
  bool operator==(const PlanGradient&) const = default;
};

/// The model a plan was made for; weights are read from it.
struct PlanModel {
  std::string path;
  std::string sha256;
  std::vector<std::pair<std::string, std::vector<int64_t>>> input_shapes;  // of the whole batch
  bool operator==(const PlanModel&) const = default;
};

struct Plan {
  int version = kPlanVersion;
  PlanModel model;
  bool is_training = false;
  std::string schedule;   // a name of passes/schedule, or "auto": an order that a search found
  std::string objective;  // "throughput", "latency", "devices"
  std::string precision = "f32";
  int32_t microbatches = 1;
  int64_t batch = 0;            // rows of a step, 0 when the model has no batch dimension
  int64_t microbatch_rows = 0;  // rows of every micro-batch but the last
  bool has_tail = false;        // the last micro-batch has fewer rows (variant 1)
  PlanIndex event_count = 0;

  std::vector<PlanDevice> devices;
  std::vector<PlanLink> links;
  std::vector<PlanValue> values;
  std::vector<PlanNode> nodes;
  std::vector<PlanTransfer> transfers;
  std::vector<PlanSlice> slices;
  std::vector<PlanQueue> queues;
  std::vector<Instruction> instructions;
  std::vector<PlanInput> inputs;
  std::vector<PlanOutput> outputs;
  std::vector<PlanUpdate> updates;
  std::vector<PlanGradient> gradients;
  PlanIndex loss = kNone;  // index into outputs

  double step_seconds = 0;  // predicted
  double bubble = 0;        // idle share of the devices within the step, predicted
  double objective_value = 0;
  double objective_lower_bound = 0;
  double one_device_seconds = 0;  // predicted step on the fastest single device, memory ignored
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  // decisions and why

  int variant_count() const { return has_tail ? 2 : 1; }
  int variant_of(int32_t microbatch) const { return has_tail && microbatch == microbatches - 1 ? 1 : 0; }
  int64_t rows_of(int32_t microbatch) const {
    return variant_of(microbatch) == 1 ? batch - microbatch_rows * (microbatches - 1) : microbatch_rows;
  }
  int64_t value_bytes(PlanIndex value, int variant) const {
    const PlanValue& v = values[value];
    return byte_size(v.shapes[v.shapes.size() > 1 ? static_cast<size_t>(variant) : 0], v.dtype);
  }
  int64_t transfer_bytes(const PlanTransfer& transfer, int variant) const {
    int64_t bytes = 0;
    for (const PlanIndex value : transfer.sources) bytes += value_bytes(value, variant);
    return bytes;
  }
  /// The `microbatch` of the slice that an instruction of `microbatch` uses for `value`.
  int32_t instance_of(PlanIndex value, int32_t microbatch) const {
    const PlanValue& v = values[value];
    if (!v.per_step) return microbatch;
    if (v.kind != PlanValueKind::constant || v.literals.size() < 2) return kPerStep;
    return variant_of(microbatch) == 1 ? microbatches - 1 : 0;
  }
  bool operator==(const Plan&) const = default;
};

std::string_view action_name(Action action);
std::string_view plan_phase_name(PlanPhase phase);
std::string_view queue_kind_name(QueueKind kind);
std::string_view plan_value_kind_name(PlanValueKind kind);
std::string_view input_role_name(PlanInput::Role role);
std::string_view combine_name(PlanOutput::Combine combine);

}  // namespace mpc
