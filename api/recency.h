#pragma once

#include <cstdint>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc::api {

/// Per node of a plan for one device, inputs, then outputs: does a cache of that many bytes, which drops what was used
/// longest ago, not hold most of the operand's memory when the node begins? The plan stands for one of many layers in
/// one of many micro-batches, so between its passes, and before it, lies the use of more than a cache holds: weights and
/// activations kept for the backward pass come from memory, and what the node before made does not. So do sums of gradients,
/// which the first micro-batch does not read.
/// O(bytes that a step reads and writes).
std::vector<std::vector<bool>> cold_operands(const Plan& plan, int64_t cache_bytes);

}  // namespace mpc::api
