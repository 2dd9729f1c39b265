#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "compiler/onnx/external_data.h"
#include "tests/unit/onnx_support.h"

// External data: where it may lie, and what its entries may say.

namespace mpc::test {
namespace {

using Entries = std::vector<std::pair<std::string, std::string>>;

/// x[4] + w[4], w external.
pb::ModelProto model_with(const Entries& entries) {
  pb::ModelProto proto = parse_graph("(float[4] x) => (float[4] y) <float[4] w = {0, 0, 0, 0}> { y = Add(x, w) }");
  auto& tensor = *proto.mutable_graph()->mutable_initializer(0);
  tensor.clear_float_data();
  tensor.set_data_location(pb::TensorProto::EXTERNAL);
  for (const auto& [key, value] : entries) {
    auto& entry = *tensor.add_external_data();
    entry.set_key(key);
    entry.set_value(value);
  }
  return proto;
}

/// A folder with `m/model.onnx`, `m/w.bin` of 24 bytes, and `secret.bin` outside of `m`.
class ModelFolder {
 public:
  explicit ModelFolder(const Entries& entries) {
    std::filesystem::create_directory(folder_ / "m");
    write_proto(model_with(entries), folder_ / "m/model.onnx");
    write_bytes(folder_ / "m/w.bin", bytes());
    write_bytes(folder_ / "secret.bin", bytes());
  }
  static std::string bytes() {
    const float numbers[6] = {1, 2, 3, 4, 5, 6};
    return std::string(reinterpret_cast<const char*>(numbers), sizeof(numbers));
  }
  std::string operator/(std::string_view name) const { return folder_ / ("m/" + std::string(name)); }
  onnx_io::Model load(const onnx_io::Limits& limits = {}) const {
    return onnx_io::Model::load(folder_ / "m/model.onnx", limits);
  }
  std::string error(const onnx_io::Limits& limits = {}) const {
    return error_id([&] { load(limits); });
  }
  std::string path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

std::string entries_error(const Entries& entries) {
  return ModelFolder(entries).error();
}

}  // namespace

TEST_CASE("external data: a slice is read from its offset") {
  const ModelFolder folder({{"location", "w.bin"}, {"offset", "8"}, {"length", "16"}});
  const onnx_io::Model model = folder.load();
  std::vector<float> numbers(2);
  model.weights().read("w", 4, std::as_writable_bytes(std::span(numbers)));
  CHECK(numbers == std::vector<float>{4, 5});
  CHECK(error_id([&] { model.weights().read("w", 12, std::as_writable_bytes(std::span(numbers))); }) == "M023");
  CHECK(error_id([&] { model.weights().read("w", -4, std::as_writable_bytes(std::span(numbers))); }) == "M023");
}

TEST_CASE("external data: offset and length stay inside the file, M024") {
  CHECK(entries_error({{"location", "w.bin"}}) == "none");
  CHECK(entries_error({{"location", "w.bin"}, {"offset", "8"}}) == "none");
  CHECK(entries_error({{"location", "w.bin"}, {"offset", "9"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"offset", "25"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"offset", "9223372036854775807"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"offset", "9223372036854775808"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"offset", std::string(400, '9')}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"length", "15"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"length", "17"}}) == "M024");
  for (const char* text : {"-1", "+1", "1x", " 1", "", "0x1", "1.0"})
    CHECK(entries_error({{"location", "w.bin"}, {"offset", text}}) == "M024");
}

TEST_CASE("external data: keys are there once, location always; unknown keys mean nothing") {
  CHECK(entries_error({}) == "M024");
  CHECK(entries_error({{"offset", "0"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"location", "w.bin"}}) == "M024");
  CHECK(entries_error({{"location", "w.bin"}, {"basepath", "/etc"}, {"checksum", "x"}}) == "none");
  const auto with_data = [] {
    pb::ModelProto proto = model_with({{"location", "w.bin"}});
    proto.mutable_graph()->mutable_initializer(0)->set_raw_data(std::string(16, 'x'));
    return proto;
  }();
  CHECK(load_error(with_data) == "M024");
}

TEST_CASE("external data: locations that leave the directory are refused with M012") {
  using namespace std::string_literals;
  for (const std::string& location : {""s, "/etc/passwd"s, "//etc/passwd"s, "../secret.bin"s, "./w.bin"s, "a/../w.bin"s,
                                      "a//w.bin"s, "w.bin/"s, "w.bin\0x"s, "\xff.bin"s}) {
    CHECK_MESSAGE(entries_error({{"location", location}}) == "M012", location);
  }
  for (const char* location : {"absent.bin", "~/w.bin", "..\\secret.bin"})
    CHECK_MESSAGE(entries_error({{"location", location}}) == "M010", location);
}

TEST_CASE("external data: links, folders and pipes are refused with M012") {
  const ModelFolder folder(Entries{{"location", "data"}});
  const std::string path = folder / "data";
  std::filesystem::create_symlink(folder.path() + "/secret.bin", path);
  CHECK(folder.error() == "M012");
  std::filesystem::remove(path);
  std::filesystem::create_symlink("w.bin", path);  // even inside the directory
  CHECK(folder.error() == "M012");
  std::filesystem::remove(path);
  std::filesystem::create_hard_link(folder.path() + "/secret.bin", path);
  CHECK(folder.error() == "M012");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  CHECK(folder.error() == "M012");
  std::filesystem::remove(path);
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  CHECK(folder.error() == "M012");  // and does not wait for a writer
  std::filesystem::remove(path);
  write_bytes(path, ModelFolder::bytes());
  CHECK(folder.error() == "none");
}

TEST_CASE("external data: a link in the middle of the path is refused with M012") {
  const ModelFolder folder(Entries{{"location", "sub/secret.bin"}});
  std::filesystem::create_symlink(folder.path(), folder / "sub");
  CHECK(folder.error() == "M012");
}

TEST_CASE("external data: without openat2 the same is read and the same is refused") {
  const ModelFolder folder(Entries{{"location", "w.bin"}});
  std::filesystem::create_directories(folder / "sub/deeper");
  write_bytes(folder / "sub/deeper/w.bin", ModelFolder::bytes());
  std::filesystem::create_symlink(folder.path(), folder / "up");
  std::filesystem::create_symlink("deeper", folder / "sub/link");
  std::filesystem::create_symlink("w.bin", folder / "file_link");
  std::filesystem::create_hard_link(folder.path() + "/secret.bin", folder / "hard");
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  static int calls = 0;
  const auto absent = [](int, const char*, const open_how*, size_t) -> long {
    ++calls;
    errno = ENOSYS;
    return -1;
  };
  // What a location ends with, read through the files of a kernel with or without openat2.
  const auto outcome = [&](onnx_io::OpenAt2 openat2, const std::string& location) -> std::string {
    onnx_io::ExternalFiles files(folder / "model.onnx", "", openat2);
    try {
      const pb::ModelProto model = model_with({{"location", location}});
      const onnx_io::ExternalRegion region = files.check(model.graph().initializer(0), 16, "tensor");
      float numbers[4];
      files.read(region, 0, std::as_writable_bytes(std::span(numbers)));
      return numbers[3] == 4 ? "read" : "other bytes";
    } catch (const Error& error) {
      return std::string(error_name(error.id()));
    }
  };
  const std::pair<const char*, const char*> kLocations[] = {{"w.bin", "read"},
                                                            {"sub/deeper/w.bin", "read"},
                                                            {"up/secret.bin", "M012"},
                                                            {"sub/link/w.bin", "M012"},
                                                            {"file_link", "M012"},
                                                            {"hard", "M012"},
                                                            {"pipe", "M012"},
                                                            {"sub", "M012"},
                                                            {"sub/absent/w.bin", "M010"},
                                                            {"w.bin/w.bin", "M010"},
                                                            {"absent", "M010"},
                                                            {"../secret.bin", "M012"}};
  for (const auto& [location, expected] : kLocations) {
    CAPTURE(location);
    CHECK(outcome(onnx_io::kernel_openat2, location) == expected);
    CHECK(outcome(absent, location) == expected);
  }
  CHECK(calls >= 12);
  // Another failure is not a reason to look by another way.
  const auto refused = [](int, const char*, const open_how*, size_t) -> long {
    errno = EPERM;
    return -1;
  };
  CHECK(outcome(refused, "w.bin") == "M010");
}

TEST_CASE("external data: an external root lets links lead anywhere below it, and nowhere else") {
  const ModelFolder folder(Entries{{"location", "data"}});
  std::filesystem::create_symlink(folder.path() + "/secret.bin", folder / "data");
  onnx_io::Limits limits;
  limits.external_root = folder.path();
  CHECK(folder.error(limits) == "none");
  limits.external_root = folder / "";
  CHECK(folder.error(limits) == "M012");
}

TEST_CASE("external data: a file that changed after loading is refused with M024") {
  const ModelFolder folder(Entries{{"location", "w.bin"}});
  const onnx_io::Model model = folder.load();
  write_bytes(folder / "w.bin", "short");
  std::vector<std::byte> bytes(16);
  CHECK(error_id([&] { model.weights().read("w", 0, bytes); }) == "M024");
}

TEST_CASE("external data: many tensors may share one region without being copied") {
  pb::ModelProto proto = model_with({{"location", "w.bin"}});
  for (int i = 0; i < 1000; ++i) {
    auto& copy = *proto.mutable_graph()->add_initializer();
    copy = proto.graph().initializer(0);
    copy.set_name("w" + std::to_string(i));
  }
  const TemporaryFolder folder;
  write_proto(proto, folder / "model.onnx");
  write_bytes(folder / "w.bin", ModelFolder::bytes());
  CHECK(onnx_io::Model::load(folder / "model.onnx").initializers().size() == 1001);
}

}  // namespace mpc::test
