#include "tests/cuda/stream_order.h"

#include <algorithm>

namespace mpc::test {

size_t StreamOrder::number_of(const void* stream) {
  const auto [found, is_new] = streams_.emplace(stream, streams_.size());
  if (is_new) clocks_.emplace_back();
  return found->second;
}

void StreamOrder::join(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size(), 0);
  for (size_t s = 0; s < from.size(); ++s) into[s] = std::max(into[s], from[s]);
}

void StreamOrder::work(const void* stream, const std::string& what, const std::vector<Access>& accesses) {
  const size_t number = number_of(stream);
  Clock& clock = clocks_[number];
  join(clock, host_);
  if (clock.size() <= number) clock.resize(number + 1, 0);
  const int64_t tick = ++clock[number];
  for (const Access& access : accesses) {
    if (access.begin == nullptr || access.bytes <= 0) continue;
    const auto begin = reinterpret_cast<uintptr_t>(access.begin);
    add({begin, begin + static_cast<uintptr_t>(access.bytes), access.writes, number, tick, what}, clock);
  }
}

void StreamOrder::add(const Past& now, const Clock& clock) {
  // A write that comes after an access and covers it stands for it: what comes after the write comes after both, and
  // what does not is found unordered with the write.
  std::erase_if(past_, [&](const Past& past) {
    if (past.end <= now.begin || now.end <= past.begin) return false;
    const bool is_itself = past.stream == now.stream && past.tick == now.tick;
    const bool is_ordered = at(clock, past.stream) >= past.tick;
    if (!is_itself && (past.writes || now.writes)) {
      ++compared_;
      if (!is_ordered) {
        if (unordered_++ == 0) first_unordered_ = past.what + " and " + now.what;
      }
    }
    const bool is_covered = now.begin <= past.begin && past.end <= now.end;
    return is_ordered && is_covered && (now.writes || (past.stream == now.stream && !past.writes));
  });
  past_.push_back(now);
}

void StreamOrder::record(const void* stream, const void* event) {
  const size_t number = number_of(stream);
  join(clocks_[number], host_);
  events_[event] = clocks_[number];
}

void StreamOrder::wait(const void* stream, const void* event) {
  const auto recorded = events_.find(event);
  const size_t number = number_of(stream);
  if (recorded != events_.end()) join(clocks_[number], recorded->second);
}

void StreamOrder::sync_stream(const void* stream) {
  join(host_, clocks_[number_of(stream)]);
}

void StreamOrder::sync_event(const void* event) {
  const auto recorded = events_.find(event);
  if (recorded != events_.end()) join(host_, recorded->second);
}

void StreamOrder::forget(const void* begin, int64_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t end = first + static_cast<uintptr_t>(bytes);
  std::erase_if(past_, [&](const Past& past) { return first < past.end && past.begin < end; });
}

void StreamOrder::start_over() {
  streams_.clear();
  clocks_.clear();
  events_.clear();
  host_.clear();
  past_.clear();
}

void StreamOrder::clear() {
  *this = StreamOrder();
}

}  // namespace mpc::test
