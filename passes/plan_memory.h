#pragma once

#include "compiler/plan/plan.h"
#include "passes/pack.h"

namespace mpc {

// Static memory planning: an offset for every slice, and the size of each device's arena.
//
// Persistent slices (parameters, states, constants, per-step values that nodes update in place) lie first and are never
// shared. Every other slice lives from the instruction that writes it to the last one that reads it, counted along the
// total order. Slices are joined into one buffer when an elementwise op may write over an operand that dies there
// (ops.def), and when a gradient of the first micro-batch is written straight into its accumulator. Buffers are packed
// by best fit over their lifetimes (passes/pack.h). The arena cannot be smaller than the largest sum of live bytes; on
// the sample models it is at most 2 % larger (tests/zoo/memory_test.cpp).

/// Fills in offsets, arena_bytes, memory (by use at the fullest moment). @pre instructions in total order, without
/// record and wait. @return the largest sum of live bytes per device, a lower bound of arena_bytes.
std::vector<int64_t> plan_memory(Plan& plan, PackEffort effort = PackEffort::thorough);

}  // namespace mpc
