#pragma once

#include <span>

#include "compiler/plan/plan.h"
#include "passes/order_queues.h"
#include "passes/pack.h"

namespace mpc {

// Bytes that a link's queue writes or reads lie apart from what the compute queue works on, as far as there is room.
//
// A received slice in bytes that the device still works on makes the link wait for the device, beside the device
// waiting for the data. So the life of a received block is stretched back to the first instruction of the device that
// the link cannot know to be done: bytes that were given up before cost nothing. A block that is sent is overwritten by
// the device only after the copy, so its life is stretched to the next send of that link.
// Lives grow into moments at which other blocks leave room: the most bytes that live at once stay what they were.

/// Lengthens lives of `blocks`, which count in instructions of `plan` and are those of one device.
/// @param order  of the queues when no two blocks share bytes
/// O(instructions + blocks * lengths of what is added).
void stretch_lives(const Plan& plan, const QueueOrder& order, DeviceId device, int64_t most_bytes,
                   std::span<Block> blocks);

}  // namespace mpc
