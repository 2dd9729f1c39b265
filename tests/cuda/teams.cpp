#include "tests/cuda/teams.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "executor/cuda/launch.h"

namespace mpc::test {
namespace {

using cuda::kThreads;

constexpr size_t kStackBytes = 64 * 1024;
/// Of a launch's teams so many are there, each of which takes several items: on a GPU it is so in the longest launches.
constexpr int64_t kTeamsAtATime = 3;

Teams* teams = nullptr;

std::pair<uintptr_t, uintptr_t> range_of(const std::byte* begin, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(begin);
  return {at, at + bytes};
}

}  // namespace

Teams::Teams(uint64_t seed) : random_(seed), threads_(kThreads), order_(kThreads) {
  for (Thread& thread : threads_) {
    thread.stack = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.get();
    thread.start.uc_stack.ss_size = kStackBytes;
    thread.start.uc_link = nullptr;
  }
  std::iota(order_.begin(), order_.end(), 0);
  teams = this;
}

Teams::~Teams() {
  teams = nullptr;
}

void Teams::launch(const char* what, int64_t count, cuda::team::Waits waits, const std::function<void()>& run) {
  detector_.begin_launch(what);
  team_count_ = std::min(count, kTeamsAtATime);
  run_ = &run;
  std::vector<int64_t> queue(static_cast<size_t>(team_count_));
  std::iota(queue.begin(), queue.end(), 0);
  std::ranges::shuffle(queue, random_);
  for (const int64_t team : queue) {
    team_ = team;
    detector_.begin_team();
    if (waits == cuda::team::Waits::yes) {
      run_team();
    } else {
      run_items();
    }
  }
  detector_.end_launch();
}

void Teams::run_items() {
  // The threads' own variables lie below this call on the stack.
  constexpr size_t kOwn = size_t{4} << 20;
  const std::byte* frame = static_cast<const std::byte*>(__builtin_frame_address(0));
  std::ranges::shuffle(order_, random_);
  for (const int thread : order_) {
    thread_ = thread;
    detector_.set_thread(0, range_of(frame - kOwn, kOwn));  // items tell threads apart
    watch(&detector_);
    (*run_)();
    watch(nullptr);
  }
}

void Teams::run_team() {
  for (Thread& thread : threads_) thread.is_finished = false;
  do {
    std::ranges::shuffle(order_, random_);
    for (const int thread : order_) {
      detector_.set_thread(thread, range_of(threads_[static_cast<size_t>(thread)].stack.get(), kStackBytes));
      resume(thread);
    }
    detector_.pass_barrier();
    if (agree()) continue;
    for (Thread& thread : threads_) thread.is_started = false;  // none of them goes on
    return;
  } while (!threads_.front().is_finished);
}

void Teams::resume(int thread) {
  if (_setjmp(scheduler_) != 0) return;
  thread_ = thread;
  Thread& next = threads_[static_cast<size_t>(thread)];
  if (!next.is_started) {
    next.is_started = true;
    makecontext(&next.start, &Teams::enter, 0);
    setcontext(&next.start);
  }
  _longjmp(next.here, 1);
}

/// A thread, from its first launch to its last.
void Teams::enter() {
  while (true) {
    watch(&teams->detector_);
    (*teams->run_)();
    watch(nullptr);
    teams->threads_[static_cast<size_t>(teams->thread_)].is_finished = true;
    teams->leave();
  }
}

/// Returns when the thread's turn comes again.
void Teams::leave() {
  if (_setjmp(threads_[static_cast<size_t>(thread_)].here) == 0) _longjmp(scheduler_, 1);
}

void Teams::wait(const char* const* site) {
  watch(nullptr);
  threads_[static_cast<size_t>(thread_)].site = site;
  leave();
  watch(&detector_);
}

void Teams::set_item(int64_t item) {
  watch(nullptr);
  detector_.set_item(item);
  watch(&detector_);
}

bool Teams::agree() {
  const auto is_at = [](const Thread& thread) { return thread.is_finished ? nullptr : thread.site; };
  const Thread& first = threads_.front();
  const auto other = std::ranges::find_if(threads_, [&](const Thread& t) { return is_at(t) != is_at(first); });
  if (other == threads_.end()) return true;
  const auto place = [&](const Thread& t) { return t.is_finished ? "the end" : std::string(*t.site); };
  detector_.add(Defect::Kind::divergence, "thread 0 is at " + place(first) + ", thread " +
                                              std::to_string(other - threads_.begin()) + " at " + place(*other));
  return false;
}

std::string Teams::text_of(bool is_same_value) const {
  std::string text;
  for (const Defect& defect : defects()) {
    if ((defect.kind == Defect::Kind::same_value) != is_same_value) continue;
    text += "launch '" + defect.launch + "': " + defect.text + " (" + std::to_string(defect.count) + ")\n";
  }
  return text;
}

}  // namespace mpc::test

namespace mpc::cuda {
namespace team {

void share(const void* begin, size_t bytes) {
  test::watch(nullptr);
  test::share_memory(begin, bytes);
  if (test::teams != nullptr) test::watch(&test::teams->detector());
}
unsigned thread() {
  return test::teams == nullptr ? 0 : static_cast<unsigned>(test::teams->thread());
}
unsigned threads() {
  return test::teams == nullptr ? 1 : kThreads;
}
int64_t index() {
  return test::teams == nullptr ? 0 : test::teams->index();
}
int64_t count() {
  return test::teams == nullptr ? 1 : test::teams->count();
}
void item(int64_t i) {
  if (test::teams != nullptr) test::teams->set_item(i);
}
void wait(const char* const* site) {
  if (test::teams != nullptr) test::teams->wait(site);
}
bool puts(int32_t* place, int32_t none, int32_t value) {
  if (*place != none) return false;
  *place = value;
  return true;
}
void launch(const char* what, int64_t teams, Waits waits, const std::function<void()>& run) {
  if (test::teams == nullptr) {
    run();
  } else {
    test::teams->launch(what, teams, waits, run);
  }
}

}  // namespace team

void count_launch() {}

void copy_bytes(Stream, void* to, const void* from, int64_t bytes) {
  if (bytes <= 0) return;
  const size_t count = static_cast<size_t>(bytes);
  const uintptr_t distance = reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
  const bool is_apart = distance >= count && ~distance + 1 >= count;
  if (!is_apart && test::teams != nullptr) {
    test::teams->detector().begin_launch("copy");
    test::teams->detector().add(test::Defect::Kind::overlap,
                                "a copy of " + std::to_string(bytes) + " bytes onto itself");
    test::teams->detector().end_launch();
  }
  std::memmove(to, from, count);
}

void fill_bytes(Stream, void* to, int byte, int64_t bytes) {
  if (bytes > 0) std::memset(to, byte, static_cast<size_t>(bytes));
}

}  // namespace mpc::cuda
