#include "compiler/onnx/external_data.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

constexpr int kOpenFlags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
constexpr const char* kLinkHint =
    "keep external data in plain files below the model's directory, or name a folder above them with --external-root "
    "DIR";

/// Why a location may not be used, or nothing.
std::optional<std::string> location_fault(const std::string& location) {
  if (location.empty()) return "is empty";
  if (location.size() > 4096) return "is longer than 4096 bytes";
  if (location.find('\0') != std::string::npos) return "holds a NUL byte";
  if (!is_utf8(location)) return "is not valid UTF-8";
  if (location.front() == '/') return "is absolute";
  for (const std::string& component : split(location, '/')) {
    if (component.empty()) return "has an empty component";
    if (component == "." || component == "..") return fmt::format("has a '{}' component", component);
  }
  return std::nullopt;
}

/// Is the entry of a directory a link?
bool is_link(int directory, const std::string& name) {
  struct stat status {};
  return fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode);
}

/// openat() of one component after the other, following no link: what RESOLVE_BENEATH does, for kernels without
/// openat2. A descriptor, or a closed one and errno.
FileDescriptor open_by_components(int directory, const std::string& location) {
  const std::vector<std::string> components = split(location, '/');
  FileDescriptor current;
  int at = directory;
  for (size_t i = 0; i + 1 < components.size(); ++i) {
    FileDescriptor next(openat(at, components[i].c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_DIRECTORY));
    if (!next.is_open()) {
      // With O_DIRECTORY a link is reported as something that is no directory; openat2 calls it a link.
      if (errno == ENOTDIR) errno = is_link(at, components[i]) ? ELOOP : ENOTDIR;
      return {};
    }
    current = std::move(next);
    at = current.get();
  }
  return FileDescriptor(openat(at, components.back().c_str(), kOpenFlags));
}

/// Digits only, below 2^63.
std::optional<int64_t> parse_digits(const std::string& text) {
  if (text.empty() || !std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

struct Entries {
  std::optional<std::string> location;
  std::optional<int64_t> offset;
  std::optional<int64_t> bytes;
};

Entries read_entries(const pb::TensorProto& tensor, const std::string& where) {
  Entries entries;
  std::vector<std::string> seen;
  for (const auto& entry : tensor.external_data()) {
    const std::string& key = entry.key();
    if (key != "location" && key != "offset" && key != "length")
      continue;  // checksum, basepath and unknown keys mean nothing to mpc
    if (std::ranges::find(seen, key) != seen.end())
      throw Error(ErrorId::M024, where, fmt::format("external data has two '{}' entries", key));
    seen.push_back(key);
    if (key == "location") {
      entries.location = entry.value();
      continue;
    }
    const auto number = parse_digits(entry.value());
    if (!number) {
      throw Error(ErrorId::M024, where,
                  fmt::format("external data {} is '{}', a whole number below 2^63 is needed", key,
                              escaped(entry.value(), 60)));
    }
    (key == "offset" ? entries.offset : entries.bytes) = *number;
  }
  if (!entries.location) throw Error(ErrorId::M024, where, "external data has no location");
  return entries;
}

}  // namespace

long kernel_openat2(int directory, const char* path, const open_how* how, size_t bytes) {
  return syscall(SYS_openat2, directory, path, how, bytes);
}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

ExternalFiles::ExternalFiles(const std::string& model_path, std::string external_root, OpenAt2 openat2)
    : directory_path_(std::filesystem::path(model_path).parent_path().string()),
      external_root_(std::move(external_root)),
      openat2_(openat2) {
  if (directory_path_.empty()) directory_path_ = ".";
  directory_ = FileDescriptor(::open(directory_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory_.is_open()) {
    throw Error(ErrorId::M010, directory_path_,
                fmt::format("the model's directory cannot be opened: {}", std::strerror(errno)));
  }
}

FileDescriptor ExternalFiles::open_beneath(int directory, const std::string& location) const {
  open_how how{};
  how.flags = static_cast<uint64_t>(kOpenFlags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long descriptor = openat2_(directory, location.c_str(), &how, sizeof(how));
  if (descriptor < 0 && errno == ENOSYS) return open_by_components(directory, location);
  return FileDescriptor(static_cast<int>(descriptor));
}

FileDescriptor ExternalFiles::open(const std::string& location, const std::string& where, Identity& identity) const {
  if (const auto fault = location_fault(location)) {
    throw Error(ErrorId::M012, where, fmt::format("external data location '{}' {}", escaped(location, 200), *fault),
                "a relative path below the model's directory is needed");
  }
  FileDescriptor file;
  const bool follows_links = !external_root_.empty();
  if (follows_links) {
    // The links are resolved first; what they lead to is then opened below the root without following any.
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path root = fs::canonical(external_root_, error);
    if (error)
      throw Error(ErrorId::M010, where,
                  fmt::format("external root '{}' cannot be opened: {}", external_root_, error.message()));
    const fs::path target = fs::canonical(fs::path(directory_path_) / location, error);
    if (error)
      throw Error(ErrorId::M010, where,
                  fmt::format("external data file '{}' cannot be opened: {}", escaped(location, 200), error.message()));
    const std::string beneath = target.lexically_relative(root).string();
    if (location_fault(beneath)) {
      throw Error(ErrorId::M012, where,
                  fmt::format("external data file '{}' is not below the external root", escaped(location, 200)));
    }
    const FileDescriptor root_directory(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    file = open_beneath(root_directory.get(), beneath);
  } else {
    file = open_beneath(directory_.get(), location);
  }
  if (!file.is_open()) {
    const int error = errno;
    const bool is_refused = error == ELOOP || error == EXDEV;
    throw Error(is_refused ? ErrorId::M012 : ErrorId::M010, where,
                fmt::format("external data file '{}' cannot be opened: {}", escaped(location, 200),
                            is_refused ? "it is reached through a link" : std::strerror(error)),
                is_refused ? kLinkHint : "");
  }
  struct stat status {};
  if (fstat(file.get(), &status) != 0)
    throw Error(ErrorId::M010, where,
                fmt::format("external data file '{}': {}", escaped(location, 200), std::strerror(errno)));
  if (!S_ISREG(status.st_mode))
    throw Error(ErrorId::M012, where,
                fmt::format("external data file '{}' is not a regular file", escaped(location, 200)));
  if (status.st_nlink != 1 && !follows_links) {
    throw Error(ErrorId::M012, where,
                fmt::format("external data file '{}' has {} hard links", escaped(location, 200), status.st_nlink),
                kLinkHint);
  }
  identity = {status.st_dev, status.st_ino, status.st_size};
  return file;
}

ExternalRegion ExternalFiles::check(const pb::TensorProto& tensor, int64_t bytes, const std::string& where) {
  const Entries entries = read_entries(tensor, where);
  auto known = files_.find(*entries.location);
  if (known == files_.end()) {
    Identity identity;
    open(*entries.location, where, identity);
    known = files_.emplace(*entries.location, identity).first;
  }
  const int64_t file_bytes = known->second.bytes;
  const int64_t offset = entries.offset.value_or(0);
  if (offset > file_bytes)
    throw Error(ErrorId::M024, where,
                fmt::format("external data offset {} is past the end of the file ({} bytes)", offset, file_bytes));
  const int64_t length = entries.bytes.value_or(bytes);
  if (length != bytes)
    throw Error(ErrorId::M024, where, fmt::format("external data has {} bytes, the shape needs {}", length, bytes));
  if (length > file_bytes - offset) {
    throw Error(ErrorId::M024, where,
                fmt::format("external data needs bytes {} to {} of a file of {} bytes", offset,
                            static_cast<uint64_t>(offset) + static_cast<uint64_t>(length), file_bytes));
  }
  return {*entries.location, offset, length};
}

void ExternalFiles::read(const ExternalRegion& region, int64_t offset, std::span<std::byte> out) const {
  Identity identity;
  const std::string where = directory_path_ + "/" + region.location;
  const FileDescriptor file = open(region.location, where, identity);
  const auto known = files_.find(region.location);
  if (known == files_.end() || !(known->second == identity))
    throw Error(ErrorId::M024, where, "the external data file changed while it was in use");
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t count =
        pread(file.get(), out.data() + done, out.size() - done, region.offset + offset + static_cast<int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Error(ErrorId::M010, where, fmt::format("cannot be read: {}", std::strerror(errno)));
    if (count == 0) throw Error(ErrorId::M024, where, "the external data file became shorter while it was in use");
    done += static_cast<size_t>(count);
  }
}

}  // namespace mpc::onnx_io
