#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mpc {

/// A regular file that is open for reading. Reads are at explicit offsets, so any number of threads may read at once.
class InputFile {
 public:
  /// Links are followed: the path is the user's own word (paths that stand inside a model are not opened here).
  /// @throws Error(M010) when it is absent, may not be read or is not a regular file (FIFOs and devices are never
  /// waited for); Error(M012) when the path is empty or holds a NUL.
  explicit InputFile(std::string path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  /// The size when the file was opened.
  int64_t bytes() const { return bytes_; }
  /// Fills `out` with the bytes from `offset` on. @throws Error(M010) when the file ends before.
  void read(int64_t offset, std::span<std::byte> out) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t bytes_ = 0;
};

/// The content of a regular file. @throws as InputFile; Error(M051) when it is larger than `max_bytes`.
std::vector<std::byte> read_file(const std::string& path, int64_t max_bytes);
/// The same, as text. The bytes are not checked to be UTF-8.
std::string read_text_file(const std::string& path, int64_t max_bytes);

/// While it lives, others that ask for the lock of the same folder wait: for files that belong together and get their
/// names one after the other. Where the file system has no locks, no one waits.
class FolderLock {
 public:
  /// @param path  of a file in the folder
  explicit FolderLock(const std::string& path);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int folder_ = -1;
};

/// A file that appears under its name whole or not at all. The bytes go to `.NAME.PID.tmp` in the same folder; commit()
/// flushes them to the disk and renames the file into place. Until then a file that stood there stays as it was.
/// Removes what dead processes left of earlier attempts at the same name. One thread.
class AtomicFile {
 public:
  /// @throws Error(M012) when the path cannot be an output (empty, a link, a folder, a device); Error(M011) when the
  /// folder is absent or refuses, or when another process is writing the same file.
  explicit AtomicFile(std::string path);
  /// Removes what was not committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t bytes_written() const { return bytes_written_; }
  /// @throws Error(M011), and then the attempt is over: the temporary file is gone.
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Appends zeros up to a multiple of `alignment`. @throws Error(M011)
  void pad_to(int64_t alignment);
  /// Brings what was appended to the disk. commit() does it too; whoever writes two files that belong together flushes
  /// both before one of them appears. @throws Error(M011)
  void flush();
  /// Makes the file appear; the object is done afterwards. @throws Error(M011)
  void commit();

 private:
  struct Slot;  // what an interrupt handler needs to know
  friend void remove_temporary_files() noexcept;
  static Slot* claim_slot(int folder, const std::string& name);

  void create();
  void remove_stale(int folder) const;
  [[noreturn]] void fail(const std::string& what_failed, int error_number);
  void discard() noexcept;

  std::string path_;
  std::string name_;            // last component of the path
  std::string temporary_name_;  // in the same folder
  int folder_ = -1;
  bool can_flush_folder_ = true;
  int descriptor_ = -1;
  Slot* slot_ = nullptr;
  int64_t bytes_written_ = 0;
  int64_t bytes_flushed_ = -1;
};

/// Writes a whole file through AtomicFile. @throws as AtomicFile.
void write_file_atomic(const std::string& path, std::span<const std::byte> bytes);
void write_file_atomic(const std::string& path, std::string_view text);

/// Removes the temporary files of every AtomicFile that is open in this process. Async-signal-safe: what a handler of
/// SIGINT or SIGTERM calls before it ends the process.
void remove_temporary_files() noexcept;

/// Do both paths name the same existing file (through links too)? False when either is absent.
bool is_same_file(const std::string& a, const std::string& b);

}  // namespace mpc
