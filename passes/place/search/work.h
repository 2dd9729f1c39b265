#pragma once

#include <cstdint>
#include <functional>
#include <utility>

namespace mpc::place {

/// What a search may still spend, in counted steps and not in seconds: the same input gives the same answer on a slow
/// machine. One unit is about a nanosecond of a current core; each algorithm charges what its steps were measured to
/// cost.
class Work {
 public:
  /// `should_stop` is asked now and then; when it says so, nothing is left. It is for what counted steps cannot know:
  /// a machine far slower than any that was measured.
  explicit Work(int64_t units, std::function<bool()> should_stop = {})
      : left_(units), should_stop_(std::move(should_stop)) {}

  /// @return false when nothing is left.
  bool spend(int64_t units) {
    left_ -= units;
    unasked_ += units;
    if (unasked_ >= kAskEvery && should_stop_) ask();
    return left_ > 0;
  }
  bool is_over() const { return left_ <= 0; }
  int64_t left() const { return left_; }
  /// Ended by should_stop.
  bool was_stopped() const { return was_stopped_; }

 private:
  static constexpr int64_t kAskEvery = 50'000'000;

  void ask() {
    unasked_ = 0;
    if (!should_stop_()) return;
    was_stopped_ = true;
    left_ = 0;
  }

  int64_t left_;
  std::function<bool()> should_stop_;
  int64_t unasked_ = 0;
  bool was_stopped_ = false;
};

}  // namespace mpc::place
