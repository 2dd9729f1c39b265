#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compiler/plan/plan.h"
#include "mpc/plan.h"

// What reports and pictures say about a plan, computed once from its tables.

namespace mpc::api {

/// Rows for `mpc partition`, in device order.
std::vector<v1::DevicePlan> device_plans(const Plan& plan);
/// One row per value that travels, in the plan's order of transfers; bytes of a whole step.
std::vector<v1::TransferPlan> transfer_plans(const Plan& plan);
/// Bytes of a transfer in a whole step.
int64_t step_bytes(const Plan& plan, const PlanTransfer& transfer);
/// The device of every forward node that comes from an ONNX node, by that node's name.
std::map<std::string, int> assignment_of(const Plan& plan);
/// Per node: the number of device changes on the way to it, at most.
std::vector<int> stage_of_nodes(const Plan& plan);
/// Per value: the node that makes it (kNone: none).
std::vector<PlanIndex> producers_of(const Plan& plan);
/// Per value: the value it is a copy of on another device, followed to the first (itself when it is no copy).
std::vector<PlanIndex> originals_of(const Plan& plan);
/// FLOPs of a node in a whole step.
double step_flops(const Plan& plan, const PlanNode& node);
double step_seconds(const Plan& plan, const PlanNode& node);
/// The ONNX node's name in an origin: "features/conv" of "features/conv (Conv)"; empty when there is none.
std::string onnx_name(const std::string& origin);
/// The ONNX nodes that a node carries out: several for a fused one.
std::vector<std::string> origins_of(const PlanNode& node);
/// The number below which the integers of an input must be: rows of the table that a Gather takes them from, classes of
/// a loss. 2 when no node tells.
int64_t value_bound(const Plan& plan, PlanIndex value);
/// Dimensions for the whole batch: dimension 0 added up over the micro-batches when `is_batched`.
std::vector<int64_t> batch_shape(const Plan& plan, PlanIndex value, bool is_batched);

}  // namespace mpc::api
