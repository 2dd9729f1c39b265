#include "compiler/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>

#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::bytes_of;
using test::error_id;
using test::error_of;
using test::TemporaryFolder;

void put(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST_CASE("file: what was written is read back, and a limit is exact") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", std::string_view("hello\0world", 11));
  CHECK(read_text_file(folder / "a", 11) == std::string("hello\0world", 11));
  CHECK(read_file(folder / "a", 11) == bytes_of(std::string_view("hello\0world", 11)));
  CHECK(error_id([&] { (void)read_text_file(folder / "a", 10); }) == "M051");
  write_file_atomic(folder / "empty", std::string_view());
  CHECK(read_text_file(folder / "empty", 0).empty());
}

TEST_CASE("file: only regular files are read, and a pipe is not waited for") {
  const TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(error_id([&] { InputFile file(folder / "pipe"); }) == "M010");
  CHECK(error_id([&] { InputFile file(folder.path()); }) == "M010");
  CHECK(error_id([&] { InputFile file("/dev/zero"); }) == "M010");
  CHECK(error_id([&] { InputFile file(folder / "absent"); }) == "M010");
  CHECK(error_id([&] { InputFile file(""); }) == "M012");
  CHECK(error_id([&] { InputFile file(std::string("a\0b", 3)); }) == "M012");
  CHECK(error_id([&] { InputFile file(folder / std::string(5000, 'x')); }) == "M010");
}

TEST_CASE("file: reading past the end is an error that says how much is missing") {
  const TemporaryFolder folder;
  put(folder / "a", "12345678");
  const InputFile file(folder / "a");
  CHECK(file.bytes() == 8);
  std::vector<std::byte> part(3);
  file.read(5, part);
  CHECK(part == bytes_of("678"));
  const auto error = error_of([&] { file.read(6, part); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M010);
  CHECK(error->what_happened() == "ends at byte 8, 1 more are expected");
}

TEST_CASE("file: a file that is not committed leaves the old one and nothing else") {
  const TemporaryFolder folder;
  put(folder / "out", "old");
  {
    AtomicFile file(folder / "out");
    file.append("new");
    CHECK(folder.entries().size() == 2);
    CHECK(read_text_file(folder / "out", 10) == "old");
  }
  CHECK(folder.entries() == std::vector<std::string>{"out"});
  CHECK(read_text_file(folder / "out", 10) == "old");
  {
    AtomicFile file(folder / "out");
    file.append("new");
    file.pad_to(8);
    file.pad_to(8);
    CHECK(file.bytes_written() == 8);
    file.commit();
  }
  CHECK(folder.entries() == std::vector<std::string>{"out"});
  CHECK(read_text_file(folder / "out", 10) == std::string("new\0\0\0\0\0", 8));
}

TEST_CASE("file: a new file has the mode that the umask leaves of 0666") {
  const TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_file_atomic(folder / "a", "x");
  ::umask(before);
  struct stat info {};
  REQUIRE(::stat((folder / "a").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0640);
}

TEST_CASE("file: links, folders and devices are refused as outputs") {
  const TemporaryFolder folder;
  put(folder / "target", "kept");
  std::filesystem::create_symlink("target", folder / "link");
  std::filesystem::create_symlink("nothing", folder / "dangling");
  std::filesystem::create_directory(folder / "folder");
  for (const std::string& path :
       {folder / "link", folder / "dangling", folder / "folder", folder / "folder/", folder / ".", folder / "..",
        std::string("/dev/full"), std::string("/dev/null"), std::string()}) {
    CAPTURE(path);
    CHECK(error_id([&] { AtomicFile file(path); }) == "M012");
  }
  CHECK(read_text_file(folder / "target", 10) == "kept");
  CHECK(error_id([&] { AtomicFile file(folder / "absent/out"); }) == "M011");
  CHECK(error_id([&] { AtomicFile file(folder / "target/out"); }) == "M011");
  CHECK(error_id([&] { AtomicFile file(folder / std::string(256, 'n')); }) == "M011");
  CHECK(folder.entries().size() == 4);
}

TEST_CASE("file: the longest possible name can be written") {
  const TemporaryFolder folder;
  const std::string name(255, 'n');
  write_file_atomic(folder / name, "x");
  CHECK(folder.entries() == std::vector<std::string>{name});
}

TEST_CASE("file: a disk that takes no more is M011, and the old file stays") {
  const TemporaryFolder folder;
  put(folder / "out", "old");
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const auto error = error_of([&] { write_file_atomic(folder / "out", std::string(2000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M011);
  CHECK(folder.entries() == std::vector<std::string>{"out"});
  CHECK(read_text_file(folder / "out", 10) == "old");
}

TEST_CASE("file: what dead processes left is removed, what others write is not") {
  const TemporaryFolder folder;
  const std::string own = "." + std::string("out.") + std::to_string(::getpid()) + ".tmp";
  put(folder / own, "left by a dead process that had our id");
  put(folder / ".out.2147483646.tmp", "left by a process that is no more");  // above any pid_max
  put(folder / ".other.2147483646.tmp", "another name");
  put(folder / ".out.12x.tmp", "not a process id");
  const int locked = ::open((folder / ".out.2147483645.tmp").c_str(), O_WRONLY | O_CREAT, 0600);
  REQUIRE(::flock(locked, LOCK_EX | LOCK_NB) == 0);  // its writer lives in another container
  write_file_atomic(folder / "out", "new");
  std::vector<std::string> left = folder.entries();
  std::sort(left.begin(), left.end());
  CHECK(left == std::vector<std::string>{".other.2147483646.tmp", ".out.12x.tmp", ".out.2147483645.tmp", "out"});
  ::close(locked);
}

TEST_CASE("file: the same file is not written twice at once") {
  const TemporaryFolder folder;
  AtomicFile first(folder / "out");
  first.append("first");
  CHECK(error_id([&] { AtomicFile second(folder / "out"); }) == "M011");
  first.commit();
  CHECK(read_text_file(folder / "out", 10) == "first");
}

TEST_CASE("file: an interrupt removes every temporary file and nothing that was committed") {
  const TemporaryFolder folder;
  AtomicFile a(folder / "a");
  AtomicFile b(folder / "b");
  AtomicFile c(folder / "c");
  c.append("whole");
  c.commit();
  CHECK(folder.entries().size() == 3);
  remove_temporary_files();
  CHECK(folder.entries() == std::vector<std::string>{"c"});
  CHECK(error_id([&] { a.commit(); }) == "M011");
}

TEST_CASE("file: is_same_file sees through links") {
  const TemporaryFolder folder;
  put(folder / "a", "x");
  put(folder / "b", "x");
  std::filesystem::create_symlink("a", folder / "link");
  CHECK(is_same_file(folder / "a", folder / "link"));
  CHECK(!is_same_file(folder / "a", folder / "b"));
  CHECK(!is_same_file(folder / "a", folder / "absent"));
}

}  // namespace
}  // namespace mpc
