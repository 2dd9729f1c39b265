#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "executor/host/lane_order.h"

namespace mpc::executor {

struct Lane;

/// A link without a core of its own. Its copies are the work of whichever end is free first: the sender, who would else
/// have to end a kernel before the receiver gets what it waits for, or the receiver.
struct SharedLink {
  SharedLink(const Plan& plan, const LaneQueues& queues, Lane* of_sender, Lane* of_receiver)
      : order(plan, queues), sender(of_sender), receiver(of_receiver) {}

  LaneOrder order;
  std::atomic<bool> is_claimed{false};  // by the thread that looks at it or copies; guards `order`
  Lane* sender = nullptr;               // does not end a step before the link has
  Lane* receiver = nullptr;
};

/// What a lane found to do: an instruction of its own, or of a link that it has claimed.
struct LaneTask {
  PlanIndex instruction = kNone;
  SharedLink* link = nullptr;
};

/// A thread and its work.
struct Lane {
  Lane(const Plan& plan, const LaneQueues& own_queues) : order(plan, own_queues) {}

  std::string name;
  LaneOrder order;
  std::vector<SharedLink*> links;        // it is an end of
  int openmp_threads = 0;                // of its devices' kernels; 0: it only copies
  std::vector<int> cores;                // where its threads stay; empty: anywhere
  std::vector<PlanIndex> stream_queues;  // not empty: the lane enqueues on their stream
  bool begins_steps = false;             // it has something to do before any event
  std::atomic<uint32_t> wakes{0};        // counts what it may have waited for
  std::atomic<uint64_t> executed{0};     // instructions, of all steps
  std::thread thread;

  bool is_done() const;
  bool has_own_cores() const { return !cores.empty(); }
  /// Is there anything to do? A hint: another thread may have done it by now.
  template <class IsRecorded>
  bool has_work(const IsRecorded& is_recorded) const {
    if (is_done() || order.next(is_recorded) != kNone) return true;
    for (const SharedLink* link : links) {
      if (link->order.next(is_recorded) != kNone) return true;
    }
    return false;
  }
  /// The first instruction that may run now. Give the answer to finish() when it was executed.
  template <class IsRecorded>
  LaneTask claim(const IsRecorded& is_recorded) {
    LaneTask task{order.next(is_recorded), nullptr};
    for (SharedLink* link : links) {
      // First without claiming: most of the time there is nothing to copy.
      if (link->order.next(is_recorded) >= task.instruction ||
          link->is_claimed.exchange(true, std::memory_order_acquire))
        continue;
      const PlanIndex next = link->order.next(is_recorded);
      if (next < task.instruction) {
        if (task.link != nullptr) release(*task.link);
        task = {next, link};
      } else {
        release(*link);
      }
    }
    return task;
  }
  void finish(const LaneTask& task);
  /// Where its queues, and links that it sends on, stand. Any thread may ask.
  std::vector<PlanIndex> heads() const;

  /// Tells the lane that something changed that it may wait for.
  void wake();
  /// Until wakes is not `seen` any more; awake for a while first, on a core of its own.
  void rest(uint32_t seen) const;
  /// The same, asleep.
  void sleep(uint32_t seen) const { wakes.wait(seen, std::memory_order_acquire); }

 private:
  /// Gives a claimed link back, and says so to the other end, which may have passed it by.
  void release(SharedLink& link);
};

}  // namespace mpc::executor
