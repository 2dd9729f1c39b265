#include "executor/host/lane.h"

#include <algorithm>
#include <chrono>

namespace mpc::executor {
namespace {

// Waking a sleeping thread takes 20 us of who wakes it and 50 us until it runs, for every micro-batch on every link. A
// lane with cores of its own waits awake first: where micro-batches take less than this, no one is woken within a step.
constexpr std::chrono::microseconds kAwake(1000);
constexpr int kPausesPerLook = 64;  // at the clock

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

bool Lane::is_done() const {
  return order.is_done() && std::ranges::all_of(links, [this](const SharedLink* link) {
           return link->sender != this || link->order.is_done();
         });
}

void Lane::finish(const LaneTask& task) {
  executed.fetch_add(1, std::memory_order_relaxed);
  if (task.link == nullptr) return order.take(task.instruction);
  task.link->order.take(task.instruction);
  release(*task.link);
}

void Lane::release(SharedLink& link) {
  link.is_claimed.store(false, std::memory_order_release);
  (link.sender == this ? link.receiver : link.sender)->wake();
}

std::vector<PlanIndex> Lane::heads() const {
  std::vector<PlanIndex> heads = order.heads();
  for (const SharedLink* link : links) {
    if (link->sender != this) continue;
    const std::vector<PlanIndex> of_link = link->order.heads();
    heads.insert(heads.end(), of_link.begin(), of_link.end());
  }
  return heads;
}

void Lane::wake() {
  wakes.fetch_add(1, std::memory_order_release);
  wakes.notify_one();
}

void Lane::rest(uint32_t seen) const {
  if (has_own_cores()) {
    const auto asleep_from = std::chrono::steady_clock::now() + kAwake;
    do {
      for (int i = 0; i < kPausesPerLook; ++i) {
        if (wakes.load(std::memory_order_acquire) != seen) return;
        pause_briefly();
      }
    } while (std::chrono::steady_clock::now() < asleep_from);
  }
  sleep(seen);
}

}  // namespace mpc::executor
