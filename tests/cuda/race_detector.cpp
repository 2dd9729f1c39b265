#include "tests/cuda/race_detector.h"

#include <algorithm>
#include <cstring>

namespace mpc::test {
namespace {

RaceDetector* watching = nullptr;

struct Range {
  uintptr_t begin;
  uintptr_t end;
};

/// Sorted by address.
std::vector<Range>& shared_memory() {
  static std::vector<Range> ranges;
  return ranges;
}

bool is_shared(uintptr_t at) {
  const std::vector<Range>& ranges = shared_memory();
  const auto after = std::ranges::upper_bound(ranges, at, {}, &Range::begin);
  return after != ranges.begin() && at < std::prev(after)->end;
}

}  // namespace

void watch(RaceDetector* detector) {
  watching = detector;
}

void share_memory(const void* begin, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(begin);
  std::vector<Range>& ranges = shared_memory();
  ranges.insert(std::ranges::upper_bound(ranges, at, {}, &Range::begin), {at, at + bytes});
}

void RaceDetector::name_memory(const void* begin, int64_t bytes, std::string name) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(begin);
  names_.push_back({at, at + static_cast<uintptr_t>(bytes), std::move(name)});
}

void RaceDetector::begin_launch(std::string what) {
  launch_ = std::move(what);
  launch_epoch_ = ++last_epoch_;
  begin_team();
  now_ = {0, 0, 0};
}

void RaceDetector::begin_team() {
  settle();
  team_epoch_ = ++last_epoch_;
  now_.phase = 0;
}

void RaceDetector::set_item(int64_t item) {
  settle();
  now_.item = item;
}

void RaceDetector::set_thread(int thread, std::pair<uintptr_t, uintptr_t> stack) {
  settle();
  now_.thread = thread;
  stack_ = stack;
}

void RaceDetector::pass_barrier() {
  settle();
  ++now_.phase;
}

RaceDetector::Byte& RaceDetector::byte_at(uintptr_t at) {
  const uintptr_t page = at / kPageBytes;
  Recent& recent = recent_[page % kRecentPages];
  if (recent.content == nullptr || recent.page != page) {
    Page& found = pages_[page];
    if (found.empty()) found.resize(kPageBytes);
    recent = {page, &found};
  }
  return (*recent.content)[at % kPageBytes];
}

bool RaceDetector::conflicts(const Access& other, const Access& mine) const {
  if (other.item == kNone) return false;
  if (other.item != mine.item) return true;
  return other.phase == mine.phase && other.thread != mine.thread;
}

void RaceDetector::note_read(Byte& byte, const Access& mine) const {
  Access& read = byte.read;
  if (read.item == kNone) {
    read = mine;
  } else if (read.item != mine.item) {
    read.item = kMany;
  } else if (read.phase != mine.phase) {
    read = mine;
  } else if (read.thread != mine.thread) {
    read.thread = static_cast<int32_t>(kMany);
  }
}

void RaceDetector::access(uintptr_t begin, size_t bytes, bool is_write) {
  if (begin >= stack_.first && begin < stack_.second) return;
  settle();
  const bool is_of_team = is_shared(begin);
  const uint64_t epoch = is_of_team ? team_epoch_ : launch_epoch_;
  Access mine = now_;
  if (is_of_team) mine.item = 0;
  const char* other_verb = nullptr;
  Access other;
  uintptr_t place = begin;
  for (uintptr_t at = begin; at < begin + bytes; ++at) {
    Byte& byte = byte_at(at);
    if (byte.epoch != epoch) byte = {epoch, {}, {}};
    const bool is_read_race = is_write && conflicts(byte.read, mine);
    const bool is_write_race = conflicts(byte.write, mine);
    if (is_read_race || (is_write_race && other_verb == nullptr)) {
      other_verb = is_read_race ? "read" : "written";
      other = is_read_race ? byte.read : byte.write;
      place = at;
    }
    if (is_write) {
      byte.write = mine;
    } else {
      note_read(byte, mine);
    }
  }
  if (other_verb == nullptr) return;
  // Of a kind one text is kept; a body with a defect may have it at every element.
  const bool is_told = is_known(Defect::Kind::race);
  const std::string text = is_told ? "" : describe(place, other_verb, other, is_write ? "written" : "read", mine);
  if (!is_write || std::strcmp(other_verb, "read") == 0) {
    add(Defect::Kind::race, text);
    return;
  }
  doubt_.begin = begin;
  doubt_.before.resize(bytes);
  std::memcpy(doubt_.before.data(), reinterpret_cast<const void*>(begin), bytes);
  doubt_.text = text;
}

void RaceDetector::settle() {
  if (doubt_.before.empty()) return;
  const bool is_same =
      std::memcmp(doubt_.before.data(), reinterpret_cast<const void*>(doubt_.begin), doubt_.before.size()) == 0;
  doubt_.before.clear();
  add(is_same ? Defect::Kind::same_value : Defect::Kind::race, doubt_.text);
}

bool RaceDetector::is_known(Defect::Kind kind) const {
  return std::ranges::any_of(defects_, [&](const Defect& d) { return d.kind == kind && d.launch == launch_; });
}

void RaceDetector::add(Defect::Kind kind, const std::string& text) {
  const auto same = [&](const Defect& defect) { return defect.kind == kind && defect.launch == launch_; };
  const auto found = std::ranges::find_if(defects_, same);
  if (found != defects_.end()) {
    ++found->count;
  } else {
    defects_.push_back({kind, launch_, text});
  }
}

std::string RaceDetector::describe(uintptr_t at, const char* first, const Access& other, const char* second,
                                   const Access& mine) const {
  std::string where = is_shared(at) ? "what the team shares" : "memory of no name";
  for (const Name& name : names_) {
    if (at >= name.begin && at < name.end) where = "byte " + std::to_string(at - name.begin) + " of " + name.text;
  }
  const auto who = [&](const Access& access) {
    const std::string item = access.item == kMany ? "several items" : "item " + std::to_string(access.item);
    if (access.thread == kMany) return item + ", several threads";
    return item + ", thread " + std::to_string(access.thread);
  };
  return where + " is " + first + " by " + who(other) + " and " + second + " by " + who(mine);
}

namespace {

void seen(const volatile void* at, size_t bytes, bool is_write) {
  RaceDetector* const detector = watching;
  if (detector == nullptr) return;
  watching = nullptr;  // the detector's own functions may be the watched copies of those that kernels call
  detector->access(reinterpret_cast<uintptr_t>(at), bytes, is_write);
  watching = detector;
}

}  // namespace
}  // namespace mpc::test

// What the compilers call (compiler-rt's tsan_interface.h; GCC's sanitizer.def). Atomic operations are made and not
// looked at: they are in order with each other, and kernels have no plain access to what they are made on.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

#define MPC_SEEN(bytes)                                        \
  void __tsan_read##bytes(void* at) {                          \
    mpc::test::seen(at, bytes, false);                         \
  }                                                            \
  void __tsan_write##bytes(void* at) {                         \
    mpc::test::seen(at, bytes, true);                          \
  }                                                            \
  void __tsan_unaligned_read##bytes(const void* at) {          \
    mpc::test::seen(at, bytes, false);                         \
  }                                                            \
  void __tsan_unaligned_write##bytes(void* at) {               \
    mpc::test::seen(at, bytes, true);                          \
  }                                                            \
  void __tsan_volatile_read##bytes(void* at) {                 \
    mpc::test::seen(at, bytes, false);                         \
  }                                                            \
  void __tsan_volatile_write##bytes(void* at) {                \
    mpc::test::seen(at, bytes, true);                          \
  }                                                            \
  void __tsan_unaligned_volatile_read##bytes(const void* at) { \
    mpc::test::seen(at, bytes, false);                         \
  }                                                            \
  void __tsan_unaligned_volatile_write##bytes(void* at) {      \
    mpc::test::seen(at, bytes, true);                          \
  }                                                            \
  void __tsan_read_write##bytes(void* at) {                    \
    mpc::test::seen(at, bytes, false);                         \
    mpc::test::seen(at, bytes, true);                          \
  }                                                            \
  void __tsan_unaligned_read_write##bytes(void* at) {          \
    __tsan_read_write##bytes(at);                              \
  }
MPC_SEEN(1)
MPC_SEEN(2)
MPC_SEEN(4)
MPC_SEEN(8)
MPC_SEEN(16)
#undef MPC_SEEN

void __tsan_read_range(void* at, size_t bytes) {
  mpc::test::seen(at, bytes, false);
}
void __tsan_write_range(void* at, size_t bytes) {
  mpc::test::seen(at, bytes, true);
}

void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  mpc::test::seen(from, bytes, false);
  mpc::test::seen(to, bytes, true);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  mpc::test::seen(from, bytes, false);
  mpc::test::seen(to, bytes, true);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int byte, size_t bytes) {
  mpc::test::seen(to, bytes, true);
  return std::memset(to, byte, bytes);
}

// Guards of local statics, and counters of the standard library.
uint8_t __tsan_atomic8_load(const volatile uint8_t* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_load(const volatile uint32_t* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_load(const volatile uint64_t* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
void __tsan_atomic32_store(volatile uint32_t* at, uint32_t to, int) {
  __atomic_store_n(at, to, __ATOMIC_SEQ_CST);
}
void __tsan_atomic64_store(volatile uint64_t* at, uint64_t to, int) {
  __atomic_store_n(at, to, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t* at, uint32_t more, int) {
  return __atomic_fetch_add(at, more, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_fetch_add(volatile uint64_t* at, uint64_t more, int) {
  return __atomic_fetch_add(at, more, __ATOMIC_SEQ_CST);
}
}
// NOLINTEND(bugprone-reserved-identifier)
