#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compiler/plan/plan.h"

// The parts of check_plan(), in the order in which they run: each relies on what the ones before it have proved.

namespace mpc::plan_check {

/// Ends the check. @throws Error(M061).
[[noreturn]] void refuse(const std::string& where, const std::string& what);

/// "node 'conv1' (from features/conv)", "value 'h'", "transfer 'h to cpu:1'": how messages name things. @pre in range.
std::string node_text(const Plan& plan, PlanIndex node);
std::string value_text(const Plan& plan, PlanIndex value);
std::string transfer_text(const Plan& plan, PlanIndex transfer);
std::string device_text(const Plan& plan, DeviceId device);
/// "instruction 12 (run 'conv1', micro-batch 1, on cpu:0)". @pre its queue and index are in range.
std::string instruction_text(const Plan& plan, PlanIndex instruction);
/// ", micro-batch 3", or nothing for a step's.
std::string microbatch_text(int32_t microbatch);

/// Is a predicted cost or rate usable: finite, not negative, and so far from the largest double that no sum over a plan
/// overflows?
bool is_cost(double value);

/// What the tables say together.
struct Facts {
  /// Per value: the value that a node writes over it in place, and the value that it replaces (kNone: none).
  std::vector<PlanIndex> replaced_by;
  std::vector<PlanIndex> replaces;
  /// Per value: the first and the last of the values that share its bytes by in-place updates (itself when there are
  /// none).
  std::vector<PlanIndex> first_of;
  std::vector<PlanIndex> last_of;
  /// Per value: does a node make it anew in place for each micro-batch (a running sum)?
  std::vector<bool> is_running;
  /// Per value: the last running value that is written over it within a micro-batch (kNone: the next one is not
  /// running).
  std::vector<PlanIndex> last_running_of;
};

/// Numbers of the plan, devices and links; names.
void check_head(const Plan& plan);
/// Values, nodes, transfers, inputs, outputs, updates and gradients. @pre check_head.
Facts check_tables(const Plan& plan);
/// Slices and queues; slices that must not be shared. @pre check_tables.
void check_slices(const Plan& plan, const Facts& facts);
/// The form of every instruction; that everything happens exactly once. @pre check_slices.
void check_instructions(const Plan& plan);
/// Order and content of all accesses to the arenas. @pre check_instructions.
void check_accesses(const Plan& plan, const Facts& facts);

}  // namespace mpc::plan_check
