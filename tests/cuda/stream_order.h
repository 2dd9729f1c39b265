#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

// Vector clocks over what a host enqueues on streams: are every two accesses to the same bytes, of which one writes,
// ordered by their stream, by events, or by the host having waited? What runs when is never looked at, so that one pass
// over the calls decides for every possible order. Source: C. Fidge, "Timestamps in message-passing systems that
// preserve the partial ordering", 1988.

namespace mpc::test {

class StreamOrder {
 public:
  struct Access {
    const void* begin = nullptr;
    int64_t bytes = 0;
    bool writes = false;
  };

  /// Work on a stream. It comes after what the stream has, and after what the host has waited for.
  void work(const void* stream, const std::string& what, const std::vector<Access>& accesses);
  void record(const void* stream, const void* event);
  void wait(const void* stream, const void* event);
  void sync_stream(const void* stream);
  void sync_event(const void* event);
  /// The memory is given back, or given out anew: what was done to it no longer counts.
  void forget(const void* begin, int64_t bytes);
  /// Nothing is left of streams, events and memory: what comes later has others, perhaps at the same addresses.
  void start_over();
  void clear();

  /// Pairs of accesses that were compared; pairs that nothing orders, and the first of them in words.
  int64_t compared() const { return compared_; }
  int64_t unordered() const { return unordered_; }
  const std::string& first_unordered() const { return first_unordered_; }

 private:
  using Clock = std::vector<int64_t>;  // by stream
  /// An access that later ones may conflict with. Bytes as numbers, [begin, end).
  struct Past {
    uintptr_t begin;
    uintptr_t end;
    bool writes;
    size_t stream;
    int64_t tick;
    std::string what;
  };

  size_t number_of(const void* stream);
  static void join(Clock& into, const Clock& from);
  static int64_t at(const Clock& clock, size_t stream) { return stream < clock.size() ? clock[stream] : 0; }
  void add(const Past& now, const Clock& clock);

  std::map<const void*, size_t> streams_;
  std::vector<Clock> clocks_;
  std::map<const void*, Clock> events_;
  Clock host_;
  std::vector<Past> past_;
  int64_t compared_ = 0;
  int64_t unordered_ = 0;
  std::string first_unordered_;
};

}  // namespace mpc::test
