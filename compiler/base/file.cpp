#include "compiler/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr size_t kMaxNameBytes = 255;  // NAME_MAX of every common file system

std::string reason(int error_number) {
  return std::generic_category().message(error_number);
}

std::string kind_text(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISREG(mode) ? "a regular file" : "a device";
}

void check_path(const std::string& path) {
  if (path.empty()) throw Error(ErrorId::M012, "file name", "is empty", "give the name of a file");
  if (path.find('\0') != std::string::npos) throw Error(ErrorId::M012, path, "holds a NUL byte");
}

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// Takes the lock that the writer of a temporary file holds while it lives.
bool take_lock(int descriptor) {
  return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0;
}

// Removes a temporary file that nobody holds the lock of. Its lock, not only its process id, says that the writer is
// dead: process ids mean nothing across containers that share a folder.
void remove_if_abandoned(int folder, const char* name) {
  const int descriptor = ::openat(folder, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return;
  struct stat info {};
  if (::fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() && take_lock(descriptor)) {
    ::unlinkat(folder, name, 0);
  }
  ::close(descriptor);
}

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  check_path(path_);
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor_ < 0) throw Error(ErrorId::M010, path_, "cannot be opened: " + reason(errno));
  struct stat info {};
  const bool is_known = ::fstat(descriptor_, &info) == 0;
  if (!is_known || !S_ISREG(info.st_mode)) {
    const std::string found = is_known ? "is " + kind_text(info.st_mode) + ", not a regular file" : reason(errno);
    ::close(descriptor_);
    throw Error(ErrorId::M010, path_, found);
  }
  bytes_ = info.st_size;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), bytes_(other.bytes_) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void InputFile::read(int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(ErrorId::M010, path_, "cannot be read: " + reason(errno));
    if (got == 0)
      throw Error(ErrorId::M010, path_, fmt::format("ends at byte {}, {} more are expected", offset, out.size()));
    out = out.subspan(static_cast<size_t>(got));
    offset += got;
  }
}

namespace {

template <class Container>
Container read_whole(const std::string& path, int64_t max_bytes) {
  const InputFile file(path);
  if (file.bytes() > max_bytes) {
    throw Error(ErrorId::M051, path, fmt::format("has {} bytes, the limit is {}", file.bytes(), max_bytes));
  }
  Container content(static_cast<size_t>(file.bytes()), typename Container::value_type{});
  file.read(0, std::as_writable_bytes(std::span(content.data(), content.size())));
  return content;
}

}  // namespace

std::vector<std::byte> read_file(const std::string& path, int64_t max_bytes) {
  return read_whole<std::vector<std::byte>>(path, max_bytes);
}

std::string read_text_file(const std::string& path, int64_t max_bytes) {
  return read_whole<std::string>(path, max_bytes);
}

// Slots form a list that only grows: a handler that interrupts any thread at any point sees each slot whole. A slot
// that is free again is used again, so the list is as long as the most files that were open at once.
struct AtomicFile::Slot {
  enum State : int { kFree, kBusy, kArmed };
  std::atomic<int> state{kBusy};
  int folder = -1;
  std::array<char, kMaxNameBytes + 1> name{};
  Slot* next = nullptr;

  static std::atomic<Slot*> head;
  static_assert(std::atomic<int>::is_always_lock_free && std::atomic<Slot*>::is_always_lock_free);
};

std::atomic<AtomicFile::Slot*> AtomicFile::Slot::head{nullptr};

AtomicFile::Slot* AtomicFile::claim_slot(int folder, const std::string& name) {
  Slot* slot = Slot::head.load();
  for (; slot != nullptr; slot = slot->next) {
    int expected = Slot::kFree;
    if (slot->state.compare_exchange_strong(expected, Slot::kBusy)) break;
  }
  if (slot == nullptr) {
    slot = std::make_unique<Slot>().release();  // lives as long as the process
    slot->next = Slot::head.load();
    while (!Slot::head.compare_exchange_weak(slot->next, slot)) {
    }
  }
  slot->folder = folder;
  std::memcpy(slot->name.data(), name.c_str(), name.size() + 1);
  slot->state.store(Slot::kArmed);
  return slot;
}

void remove_temporary_files() noexcept {
  const int saved = errno;
  for (AtomicFile::Slot* slot = AtomicFile::Slot::head.load(); slot != nullptr; slot = slot->next) {
    if (slot->state.load() == AtomicFile::Slot::kArmed) ::unlinkat(slot->folder, slot->name.data(), 0);
  }
  errno = saved;
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  check_path(path_);
  const size_t slash = path_.rfind('/');
  name_ = slash == std::string::npos ? path_ : path_.substr(slash + 1);
  if (name_.empty()) throw Error(ErrorId::M012, path_, "names a folder, not a file");
  if (name_.size() > kMaxNameBytes) fail("cannot be created", ENAMETOOLONG);
  struct stat info {};
  if (::lstat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    throw Error(ErrorId::M012, path_, "is " + kind_text(info.st_mode) + ", which is never written over",
                "choose another output file");
  }
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  folder_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_ < 0 && errno == EACCES) {  // may be written and not listed: then its entries cannot be flushed either
    can_flush_folder_ = false;
    folder_ = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  }
  if (folder_ < 0) fail("cannot be created", errno);
  create();
}

void AtomicFile::create() {
  const std::string suffix = "." + std::to_string(::getpid()) + ".tmp";
  temporary_name_ = "." + name_.substr(0, kMaxNameBytes - 1 - suffix.size()) + suffix;
  if (can_flush_folder_) remove_stale(folder_);
  const auto open_new = [&] {
    return ::openat(folder_, temporary_name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  };
  descriptor_ = open_new();
  if (descriptor_ < 0 && errno == EEXIST) {  // left by a dead process that had our id, or being written right now
    remove_if_abandoned(folder_, temporary_name_.c_str());
    descriptor_ = open_new();
  }
  if (descriptor_ < 0) fail(errno == EEXIST ? "is being written by someone else" : "cannot be created", errno);
  take_lock(descriptor_);  // where locks are not supported, only process ids tell the living from the dead
  slot_ = claim_slot(folder_, temporary_name_);
}

// Removes `.NAME.PID.tmp` of this NAME whose process is no more.
void AtomicFile::remove_stale(int folder) const {
  const int listing = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (listing < 0) return;
  const std::unique_ptr<DIR, DirectoryCloser> directory(::fdopendir(listing));
  if (!directory) {
    ::close(listing);
    return;
  }
  const std::string prefix = "." + name_ + ".";
  constexpr std::string_view kSuffix = ".tmp";
  while (const dirent* entry = ::readdir(directory.get())) {
    std::string_view name(entry->d_name);
    if (name.size() <= prefix.size() + kSuffix.size() || !name.starts_with(prefix) || !name.ends_with(kSuffix))
      continue;
    const auto id = parse_integer(name.substr(prefix.size(), name.size() - prefix.size() - kSuffix.size()));
    if (!id || *id <= 0 || *id > INT32_MAX) continue;
    const bool is_dead = ::kill(static_cast<pid_t>(*id), 0) != 0 && errno == ESRCH;
    if (is_dead) remove_if_abandoned(folder, entry->d_name);
  }
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() noexcept {
  if (slot_ != nullptr) {
    ::unlinkat(folder_, temporary_name_.c_str(), 0);
    slot_->state.store(Slot::kFree);
    slot_ = nullptr;
  }
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  if (folder_ >= 0) ::close(std::exchange(folder_, -1));
}

void AtomicFile::fail(const std::string& what_failed, int error_number) {
  discard();
  throw Error(ErrorId::M011, path_, what_failed + ": " + reason(error_number));
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  MPC_CHECK(slot_ != nullptr, "the output file '" + path_ + "' is done");
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot be written", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    bytes_written_ += written;
  }
}

void AtomicFile::pad_to(int64_t alignment) {
  static constexpr std::array<std::byte, 4096> kZeros{};
  for (int64_t missing = (alignment - bytes_written_ % alignment) % alignment; missing > 0;) {
    const int64_t part = std::min<int64_t>(missing, kZeros.size());
    append(std::span(kZeros).first(static_cast<size_t>(part)));
    missing -= part;
  }
}

void AtomicFile::flush() {
  MPC_CHECK(slot_ != nullptr, "the output file '" + path_ + "' is done");
  // A failed fsync is final: the kernel may have dropped the pages, so a second try would report success for lost
  // bytes.
  if (::fsync(descriptor_) != 0) fail("cannot be flushed to the disk", errno);
  // The copy keeps the lock until the file has its name; closing the first one reports what a network file system kept
  // back.
  const int written = std::exchange(descriptor_, ::dup(descriptor_));
  if (::close(written) != 0) fail("cannot be closed", errno);
  bytes_flushed_ = bytes_written_;
}

void AtomicFile::commit() {
  MPC_CHECK(slot_ != nullptr, "the output file '" + path_ + "' is done");
  if (bytes_flushed_ != bytes_written_) flush();
  if (::renameat(folder_, temporary_name_.c_str(), folder_, name_.c_str()) != 0)
    fail("cannot be renamed into place", errno);
  slot_->state.store(Slot::kFree);
  slot_ = nullptr;
  // EINVAL: a file system without such a thing as flushing a folder.
  if (can_flush_folder_ && ::fsync(folder_) != 0 && errno != EINVAL)
    fail("was written, but its folder cannot be flushed", errno);
  discard();
}

FolderLock::FolderLock(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  folder_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  while (folder_ >= 0 && ::flock(folder_, LOCK_EX) != 0 && errno == EINTR) {
  }
}

FolderLock::~FolderLock() {
  if (folder_ >= 0) ::close(folder_);
}

void write_file_atomic(const std::string& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.append(bytes);
  file.commit();
}

void write_file_atomic(const std::string& path, std::string_view text) {
  write_file_atomic(path, std::as_bytes(std::span(text.data(), text.size())));
}

bool is_same_file(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

}  // namespace mpc
