#pragma once

#include <ucontext.h>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "executor/cuda/team.h"
#include "tests/cuda/race_detector.h"

// Kernels in teams of kThreads threads, as on a GPU, but one thread at a time: each runs until its next barrier, then
// another one does, in an order that is drawn anew between any two barriers. What is compiled with MPC_TEAMS_ON_HOST
// and -fsanitize=thread runs like that while a Teams lives, and every access is looked at for races; else a team is one
// thread that does the work of all.

namespace mpc::test {

class Teams {
 public:
  /// @param seed of the orders in which threads, teams and items are taken
  explicit Teams(uint64_t seed);
  ~Teams();
  Teams(const Teams&) = delete;
  Teams& operator=(const Teams&) = delete;

  RaceDetector& detector() { return detector_; }
  const std::vector<Defect>& defects() const { return detector_.defects(); }
  /// Those but writes of the same value, or those alone.
  std::string text_of(bool is_same_value) const;

  // For team.h.
  void launch(const char* what, int64_t teams, cuda::team::Waits waits, const std::function<void()>& run);
  void wait(const char* const* site);
  void set_item(int64_t item);
  int thread() const { return thread_; }
  int64_t index() const { return team_; }
  int64_t count() const { return team_count_; }

 private:
  struct Thread {
    std::unique_ptr<std::byte[]> stack;
    ucontext_t start;
    std::jmp_buf here;
    bool is_started = false;
    bool is_finished = false;
    const char* const* site = nullptr;
  };

  void run_team();
  void run_items();
  void resume(int thread);
  static void enter();
  void leave();
  /// Are all threads finished, or all at one barrier? Tells the detector if not.
  bool agree();

  RaceDetector detector_;
  std::mt19937_64 random_;
  std::vector<Thread> threads_;
  std::vector<int> order_;
  const std::function<void()>* run_ = nullptr;
  std::jmp_buf scheduler_;
  int thread_ = 0;
  int64_t team_ = 0;
  int64_t team_count_ = 1;
};

}  // namespace mpc::test
