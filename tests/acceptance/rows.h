#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compiler/onnx/model.h"
#include "compiler/plan/plan.h"
#include "compiler/plan/simulate.h"
#include "executor/session.h"
#include "passes/pipeline.h"
#include "tests/support/run_plan.h"
#include "tests/unit/helpers.h"

// What the rows of the acceptance table share: sample models as files, plans for CPU devices, runs on seeded data, and
// the facts that the rows state in bytes.

namespace mpc::test {

/// A model of `mpc zoo`, written to a file of its own and loaded from there.
class ZooModel {
 public:
  explicit ZooModel(std::string_view name, const std::map<std::string, int64_t>& sizes = {});
  /// `edit` changes the file, named to it, before it is loaded.
  ZooModel(std::string_view name, const std::function<void(const std::string& path)>& edit);
  const onnx_io::Model& model() const { return model_; }

 private:
  TemporaryFolder folder_;
  onnx_io::Model model_;
};

/// Options with every pin {pattern, device} set.
PlanOptions pinned(const std::vector<std::pair<std::string, int>>& pins);
/// The same, training with a loss and one optimizer for all parameters.
PlanOptions training(const std::vector<std::pair<std::string, int>>& pins, LossKind loss, std::string_view optimizer);
/// The same options without pins: what one device computes.
PlanOptions on_one_device(PlanOptions options);

/// `memory` caps every device ("2.40MiB"); empty: the device's own memory.
Cluster cpu_devices(int count, std::string_view memory = {});
std::variant<Plan, Infeasible> try_plan(const ZooModel& model, const Cluster& cluster, const PlanOptions& options);
/// The plan, checked. Fails the test when there is none.
Plan plan_of(const ZooModel& model, const Cluster& cluster, const PlanOptions& options);
Plan plan_of(const ZooModel& model, int devices, const PlanOptions& options);

/// What one step sends from one device to another.
struct Sent {
  int from = 0;
  int to = 0;
  int64_t bytes = 0;
  bool is_backward = false;
  bool operator==(const Sent&) const = default;
};
/// Per transfer of the plan, in its order: the bytes of all micro-batches together. Per-step transfers count once.
std::vector<Sent> sent_in_a_step(const Plan& plan);
std::string to_text(const std::vector<Sent>& sent);
/// Bytes of an input that the host copies to a device in a step; 0 when that device has no slice of it.
int64_t fed_bytes(const Plan& plan, std::string_view input, int device);
/// The device of a node, by its name in the plan. Fails the test when there is none.
int device_of(const Plan& plan, std::string_view node);
/// Is there a node whose name contains `part`?
bool has_node(const Plan& plan, std::string_view part);
/// Devices that hold a slice of the value.
std::vector<int> devices_holding(const Plan& plan, std::string_view value);

/// Deterministic content for every input of a plan: floats in [-1, 1), ids and labels in [0, bound).
class Data {
 public:
  Data(const Plan& plan, int64_t label_bound, uint64_t seed = 1);
  void bind(executor::Session& session) const;

 private:
  struct Entry {
    std::string input;
    DType dtype;
    Shape shape;
    std::vector<std::byte> bytes;
  };
  std::vector<Entry> entries_;
};

/// Options of a session that finds reads of what was never written.
executor::SessionOptions poisoned();
/// Runs `steps` steps on the same batch, and checks that no device used more memory than planned.
Outcome run(const ZooModel& model, const Plan& plan, int steps, int64_t label_bound = 10);
/// The largest error of an element of `actual`, as a share of the largest element of `expected`; infinity when that is
/// 0, for then there is nothing to compare with; NaN when an element is.
double largest_error(const Literal& actual, const Literal& expected);
/// CHECKs that two runs left the same bits, tensor by tensor.
void check_same_bits(const Outcome& expected, const Outcome& actual);
/// Plans `options` for `devices` devices and for one, runs both for `steps` steps and compares. @return the plan.
Plan check_same_as_one_device(const ZooModel& model, int devices, const PlanOptions& options, int steps,
                              int64_t label_bound = 10);

/// Seconds in which nodes run on both devices at once, out of `entries` (predicted or measured).
double overlap_s(const Plan& plan, const std::vector<TimelineEntry>& entries, int a, int b);
/// Seconds in which the device runs nodes.
double busy_s(const Plan& plan, const std::vector<TimelineEntry>& entries, int device);
/// The measured timeline of the last step.
std::vector<TimelineEntry> measured_entries(const executor::Session& session);

}  // namespace mpc::test
