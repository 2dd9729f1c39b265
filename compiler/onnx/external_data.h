#pragma once

#include <sys/types.h>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "compiler/onnx/proto.h"

struct open_how;  // linux/openat2.h

namespace mpc::onnx_io {

/// A file descriptor that closes itself.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// The system call openat2 (`how` and `bytes` as in its manual page): a descriptor, or -1 and errno. Injected, because
/// a test cannot choose the kernel it runs on.
using OpenAt2 = long (*)(int directory, const char* path, const open_how* how, size_t bytes);
long kernel_openat2(int directory, const char* path, const open_how* how, size_t bytes);

/// A checked part of an external data file.
struct ExternalRegion {
  std::string location;
  int64_t offset = 0;
  int64_t bytes = 0;
};

/// The external data files of one model. Every access to them goes through this class (the rules are those of
/// docs/cli.md, "External data"): files lie below the model's directory, are reached through no link, are regular and
/// have one name. Reading is thread-safe.
class ExternalFiles {
 public:
  /// `external_root`: when not empty, files may be reached through links that stay below that directory.
  /// Where `openat2` ends with ENOSYS (kernels before 5.6, some sandboxes), paths are walked by openat, with the same
  /// rules.
  ExternalFiles(const std::string& model_path, std::string external_root, OpenAt2 openat2 = kernel_openat2);

  /// Checks the entries of a tensor whose shape takes `bytes`, and the file they name. `where` names the tensor in
  /// errors.
  /// @throws Error(M010, M012, M024).
  ExternalRegion check(const pb::TensorProto& tensor, int64_t bytes, const std::string& where);
  /// Reads out.size() bytes from `offset` within the region. @throws Error(M010, M012, M024) when the file changed or
  /// is gone.
  void read(const ExternalRegion& region, int64_t offset, std::span<std::byte> out) const;

 private:
  struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    int64_t bytes = 0;
    bool operator==(const Identity&) const = default;
  };
  FileDescriptor open_beneath(int directory, const std::string& location) const;
  FileDescriptor open(const std::string& location, const std::string& where, Identity& identity) const;

  std::string directory_path_;
  std::string external_root_;
  OpenAt2 openat2_;
  FileDescriptor directory_;
  std::map<std::string, Identity> files_;
};

}  // namespace mpc::onnx_io
