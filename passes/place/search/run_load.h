#pragma once

#include <vector>

#include "passes/place/search/stage_load.h"

namespace mpc::place {

/// Sums of runs of a linear order, from cut to cut in O(kinds) whatever lies between. A tensor costs a run that has
/// some of the blocks that make and read it, but not all. Has it some? Counted at the last such block before the run's
/// end. Has it all? Counted at the first one, once all are before the end. So every part between two cuts keeps what it
/// adds to runs that end at the current cut, and moving the end changes that at parts with blocks of the same tensors
/// only: O(consumers) for all ends together.
template <int kMost>
class RunLoad : public StageSums<kMost> {
  using Base = StageSums<kMost>;
  using Base::has_activations_, Base::instance_, Base::kinds_, Base::totals_;

 public:
  /// `cuts`: positions of `order`, ascending, the first 0 and the last the end. No part is before the end yet.
  RunLoad(const Instance& instance, const std::vector<int>& order, const std::vector<int>& cuts)
      : Base(instance),
        order_(order),
        cuts_(cuts),
        parts_(cuts.size() - 1),
        first_(static_cast<size_t>(instance.tensors()), -1),
        last_(first_),
        missing_(first_.size()) {
    for (int t = 0; t < instance.tensors(); ++t)
      missing_[static_cast<size_t>(t)] = 1 + static_cast<int>(instance.consumers[t].size());
  }

  /// Moves the end behind the next part, and begins with a run without parts.
  void advance() {
    Part& part = parts_[static_cast<size_t>(end_)];
    for (int i = cuts_[static_cast<size_t>(end_)]; i < cuts_[static_cast<size_t>(end_) + 1]; ++i) {
      const int block = order_[static_cast<size_t>(i)];
      Base::add_block(block, part.blocks);
      for (const int t : instance_.produced[block]) {
        part.made += instance_.cost.data()[t];
        if (has_activations_) add_bytes(t, -1, part);
        meet(t);
      }
      for (const int t : instance_.consumed[block]) meet(t);
    }
    ++end_;
    begin_run();
  }

  void begin_run() {
    begin_ = end_;
    totals_ = {};
    some_ = made_ = all_ = 0;
  }

  /// The cut where the run begins.
  int begin() const { return begin_; }

  /// Lets the run begin one cut earlier.
  void extend() {
    const Part& part = parts_.data()[--begin_];
    for (size_t k = 0; k < static_cast<size_t>(kinds_); ++k) {
      totals_.time[k] += part.blocks.time[k];
      totals_.forbidden[k] += part.blocks.forbidden[k];
    }
    totals_.memory += part.blocks.memory;
    some_ += part.some;
    made_ += part.made;
    all_ += part.all;
    totals_.received_s = some_ - made_;
    totals_.sent_s = made_ - all_;
    if (!has_activations_) return;
    totals_.kept += part.blocks.kept;
    totals_.kept_for_weights += part.blocks.kept_for_weights;
    totals_.working = std::max(totals_.working, part.blocks.working);
    totals_.received_bytes += part.blocks.received_bytes;
    totals_.copied += part.blocks.copied;
  }

 private:
  /// What a part adds to runs that end at the current cut.
  struct Part {
    typename Base::Totals blocks;
    double some = 0;  // cost of tensors that runs from here on have some blocks of, and later ones none
    double made = 0;  // of those that its blocks make
    double all = 0;   // of those that runs from here on have all blocks of, and later ones not
  };

  void add_bytes(int t, double sign, Part& part) {
    part.blocks.received_bytes += sign * instance_.received[static_cast<size_t>(t)];
    part.blocks.copied += sign * instance_.copied[static_cast<size_t>(t)];
  }

  /// One of the blocks that make and read the tensor is before the end from now on.
  void meet(int t) {
    const size_t i = static_cast<size_t>(t);
    const double cost = instance_.cost.data()[i];
    Part& part = parts_.data()[end_];
    if (last_.data()[i] != end_) {
      part.some += cost;
      if (has_activations_) add_bytes(t, 1, part);
      if (last_.data()[i] >= 0) {
        Part& earlier = parts_.data()[last_.data()[i]];
        earlier.some -= cost;
        if (has_activations_) add_bytes(t, -1, earlier);
      } else {
        first_.data()[i] = end_;
      }
      last_.data()[i] = end_;
    }
    if (--missing_.data()[i] == 0) parts_.data()[first_.data()[i]].all += cost;
  }

  const std::vector<int>& order_;
  const std::vector<int>& cuts_;
  std::vector<Part> parts_;        // [cut]: the blocks up to the next one
  std::vector<int> first_, last_;  // [tensor]: parts before the end that have blocks of it
  std::vector<int> missing_;       // [tensor]: blocks of it behind the end
  int end_ = 0, begin_ = 0;        // cuts
  double some_ = 0, made_ = 0, all_ = 0;
};

}  // namespace mpc::place
