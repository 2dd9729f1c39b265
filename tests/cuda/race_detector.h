#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

// Who touched which byte during one launch, and which of these accesses nothing puts in order.
//
// The compiler tells of every access: kernels are compiled with -fsanitize=thread, whose calls end up here instead of
// in that sanitizer's own library. So nothing that a body does with memory goes unseen, whatever pointer it takes; what
// is left out is the stack of the thread itself.
//
// Two accesses to a byte, one of them a write, are a race unless they are of one thread, or of one team with a barrier
// between them. Items of a launch (what a body is called with) are in no order, whichever thread or team takes them: so
// device memory belongs to items, and the threads of a team are told apart within one. Memory that a team shares is
// looked at within a team alone. Per byte it is enough to keep the last writer, and the readers since the last barrier
// as none, one or many: with more of either there was a race already.

namespace mpc::test {

/// One kind of defect of one launch.
struct Defect {
  enum class Kind : uint8_t {
    race,
    same_value,  // a race of writes that all leave the same bytes
    divergence,  // threads of a team at different barriers
    overlap      // a copy onto part of itself
  };
  Kind kind;
  std::string launch;
  std::string text;   // of the first one
  int64_t count = 1;  // how many
};

class RaceDetector {
 public:
  /// Calls bytes [begin, begin + size) `name` in messages.
  void name_memory(const void* begin, int64_t bytes, std::string name);
  void forget_names() { names_.clear(); }

  // What runs, as it goes on. Numbers are those of team.h.
  void begin_launch(std::string what);
  void begin_team();
  void set_item(int64_t item);
  /// @param stack where the thread's own variables lie, which are not looked at
  void set_thread(int thread, std::pair<uintptr_t, uintptr_t> stack);
  void pass_barrier();
  void end_launch() { settle(); }

  /// An access of the running thread; a write is told before it is made.
  void access(uintptr_t begin, size_t bytes, bool is_write);
  void add(Defect::Kind kind, const std::string& text);
  const std::vector<Defect>& defects() const { return defects_; }

 private:
  static constexpr int64_t kNone = -1;
  static constexpr int64_t kMany = -2;
  static constexpr size_t kPageBytes = 512;
  static constexpr size_t kRecentPages = 64;

  struct Access {
    int64_t item = kNone;
    int32_t phase = 0;
    int32_t thread = 0;
  };
  struct Byte {
    uint64_t epoch = 0;  // what is of another one is forgotten
    Access write;
    Access read;  // the last one; item or thread may be kMany
  };
  using Page = std::vector<Byte>;
  /// A write that may turn out to leave what was there.
  struct Doubt {
    uintptr_t begin = 0;
    std::vector<std::byte> before;
    std::string text;
  };

  Byte& byte_at(uintptr_t at);
  bool conflicts(const Access& other, const Access& mine) const;
  void note_read(Byte& byte, const Access& mine) const;
  void settle();
  bool is_known(Defect::Kind kind) const;
  std::string describe(uintptr_t at, const char* first, const Access& other, const char* second,
                       const Access& mine) const;

  std::unordered_map<uintptr_t, Page> pages_;
  struct Recent {
    uintptr_t page = 0;
    Page* content = nullptr;
  };
  std::array<Recent, kRecentPages> recent_;
  struct Name {
    uintptr_t begin;
    uintptr_t end;
    std::string text;
  };
  std::vector<Name> names_;
  std::vector<Defect> defects_;
  std::string launch_;
  uint64_t launch_epoch_ = 0;
  uint64_t team_epoch_ = 0;
  uint64_t last_epoch_ = 0;
  Access now_;
  std::pair<uintptr_t, uintptr_t> stack_;
  Doubt doubt_;
};

/// From here on `detector`, if it is not null, is told of every access.
void watch(RaceDetector* detector);

/// Bytes that the threads of a team share, from here on in every launch.
void share_memory(const void* begin, size_t bytes);

}  // namespace mpc::test
