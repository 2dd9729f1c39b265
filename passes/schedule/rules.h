#pragma once

#include "passes/schedule/held_microbatches.h"
#include "passes/schedule/play.h"

namespace mpc {

/// The named schedules; each is a row of the table in rules.cpp.
enum class ScheduleKind : uint8_t { sequential, gpipe, one_f_one_b, interleaved, zb_h1, zb_h2, zb_v, list, automatic };

// With p stages, stage i of them (0: the first), m micro-batches:
//   sequential   micro-batch by micro-batch: one is finished, backward included, before the next begins
//   gpipe        forward before backward
//   1f1b         backward before forward, at most p - i micro-batches in flight on stage i
//   interleaved  1F1B over several segments (chunks) per device: p micro-batches pass a chunk before the next chunk
//   zb-h1        1F1B with weight gradients put off: at most i micro-batches owe them on stage i; memory of 1F1B
//   zb-h2        the same with 2(p - i) - 1 micro-batches in flight and 2i that owe; twice the memory of 1F1B
//   zb-v         two chunks per device, the second in reverse order of devices; memory of 1F1B
//   list         what is on the longest path to the end goes first (for graphs with branches and skips)
// Sources: GPipe (NeurIPS 2019); PipeDream (SOSP 2019), 3.3, for 1F1B; Megatron-LM (SC 2021), figure 4, for
// interleaved; Zero Bubble Pipeline Parallelism (ICLR 2024), figures 2 and 3, for H1 and H2; Pipeline Parallelism with
// Controllable Memory (NeurIPS 2024), figure 4, for V; Graham, Bounds on Multiprocessing Timing Anomalies (1969), for
// list scheduling.

/// The cut of the backward pass that a schedule orders. @pre kind is not automatic.
SegmentCut segment_cut(ScheduleKind kind);

/// What the stages of an even pipeline hold under a schedule, where every device is `parts` stages: what a search for
/// stages counts on before there are any segments. @pre kind is not automatic.
HeldMicrobatches held_microbatches(ScheduleKind kind, int parts);

/// The rule of a named schedule for these segments. Segments of any shape have one: a stage is a device, its position
/// the number of levels before its first segment. @pre kind is not automatic.
Rule make_rule(const Segments& segments, ScheduleKind kind);

}  // namespace mpc
