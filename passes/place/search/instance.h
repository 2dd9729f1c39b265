#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace mpc::place {

// The problem the search works on, free of IR details: blocks that stay whole, tensors between them that travel once
// to every other device that reads them, and devices of a few kinds. It knows neither names nor files.

/// Rows of numbers of different lengths in two flat arrays.
struct Rows {
  std::vector<int> first{0};  // [row + 1]
  std::vector<int> items;

  int size() const { return static_cast<int>(first.size()) - 1; }
  std::span<const int> operator[](int row) const {
    const size_t begin = static_cast<size_t>(first[static_cast<size_t>(row)]);
    return {items.data() + begin, static_cast<size_t>(first[static_cast<size_t>(row) + 1]) - begin};
  }
  void end_row() { first.push_back(static_cast<int>(items.size())); }
};

/// Row a lists every b of the pairs (a, b), ascending, each once.
Rows unique_rows(std::vector<std::pair<int, int>> pairs, int rows);

inline constexpr double kForbidden = std::numeric_limits<double>::infinity();

/// Devices that are alike: what a block costs on one of them.
struct DeviceKind {
  std::vector<double> time;    // [block]; kForbidden where it may not run
  bool pays_transfers = true;  // what it sends and receives is part of its load
  double memory = kForbidden;  // bytes of one device
  int count = 0;
};

/// What is placed and on what. Devices are numbered kind by kind.
struct Instance {
  int blocks = 0;
  std::vector<double> memory;  // [block]
  std::vector<DeviceKind> kinds;
  std::vector<double> cost;         // [tensor]
  std::vector<int> producer;        // [tensor]
  Rows consumers;                   // [tensor]: blocks, ascending, without the producer; never empty
  Rows produced;                    // [block]: tensors
  Rows consumed;                    // [block]: tensors
  bool overlaps_transfers = false;  // while a device computes, others copy: its load is the largest of the three
  // What stages hold beside `memory`. Models state it; for graphs of measured costs all five are empty.
  std::vector<double> kept;              // [block]: bytes for every micro-batch in flight
  std::vector<double> kept_for_weights;  // [block]: for every micro-batch that owes its weight gradients
  std::vector<double> working;           // [block]: bytes while it runs; the largest of a stage counts
  std::vector<double> received;          // [tensor]: bytes for every micro-batch in flight, on devices it is sent to
  std::vector<double> copied;            // [tensor]: bytes on devices that read it and do not make it
  Rows before;                           // [block]: blocks that a contiguous split puts on the same or an earlier stage
  Rows after;                            // [block]: the reverse

  int tensors() const { return static_cast<int>(cost.size()); }
  int devices() const;
  /// The kind of a device.
  int kind_of(int device) const;
  /// Load of a device of the kind from the seconds that it works and those of its tensors.
  double load(const DeviceKind& kind, double compute, double received, double sent) const {
    if (!kind.pays_transfers) return compute;
    return overlaps_transfers ? std::max(compute, std::max(received, sent)) : compute + (received + sent);
  }
};

/// Loads of an assignment, computed from scratch.
struct Loads {
  std::vector<double> compute;   // [device]
  std::vector<double> received;  // [device]: tensors that arrive, once each; 0 for kinds that do not pay
  std::vector<double> sent;      // [device]: tensors that leave, once each, however many receivers
  std::vector<double> memory;    // [device]
  double largest = 0;            // of compute + received + sent; infinite when a block is where it may not run
  double overflow = 0;           // bytes over capacity, summed over devices
};
/// O(blocks + consumers + devices).
Loads loads_of(const Instance& instance, std::span<const int> device_of_block);

/// A device's bytes that still count as within `capacity`: sums of doubles are exact only up to rounding.
inline double memory_limit(double capacity) {
  return capacity * (1 + 1e-12);
}

}  // namespace mpc::place
