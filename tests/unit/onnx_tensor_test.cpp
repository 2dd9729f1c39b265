#include <doctest/doctest.h>

#include "tests/unit/onnx_support.h"

// Tensor files (input_0.pb), and every way a TensorProto stores its elements.

namespace mpc::test {
namespace {

Literal read(const pb::TensorProto& tensor) {
  const TemporaryFolder folder;
  write_proto(tensor, folder / "t.pb");
  return onnx_io::read_tensor_file(folder / "t.pb");
}

std::string error(const pb::TensorProto& tensor) {
  return error_id([&] { read(tensor); });
}

pb::TensorProto tensor(int32_t type, std::vector<int64_t> dims) {
  pb::TensorProto result;
  result.set_data_type(type);
  for (const int64_t dim : dims) result.add_dims(dim);
  return result;
}

}  // namespace

TEST_CASE("tensor file: every type is read from its typed field") {
  const int32_t in_int32[] = {pb::TensorProto::INT32,  pb::TensorProto::INT16, pb::TensorProto::INT8,
                              pb::TensorProto::UINT16, pb::TensorProto::UINT8, pb::TensorProto::BOOL};
  for (const int32_t type : in_int32) {
    pb::TensorProto t = tensor(type, {2});
    t.add_int32_data(1);
    t.add_int32_data(0);
    CHECK(read(t).to_integers() == std::vector<int64_t>{1, 0});
  }
  pb::TensorProto t = tensor(pb::TensorProto::INT8, {1});
  t.add_int32_data(-3);
  CHECK(read(t).integer(0) == -3);
  t = tensor(pb::TensorProto::UINT32, {1});
  t.add_uint64_data(4'000'000'000U);
  CHECK(read(t).integer(0) == 4'000'000'000);
  t = tensor(pb::TensorProto::UINT64, {1});
  t.add_uint64_data(5);
  CHECK(read(t).integer(0) == 5);
  t = tensor(pb::TensorProto::INT64, {1});
  t.add_int64_data(-7);
  CHECK(read(t).integer(0) == -7);
  t = tensor(pb::TensorProto::DOUBLE, {1});
  t.add_double_data(0.1);
  CHECK(read(t).number(0) == 0.1);
  t = tensor(pb::TensorProto::FLOAT16, {1});
  t.add_int32_data(0x3C00);
  CHECK(read(t).number(0) == 1);
  t = tensor(pb::TensorProto::BFLOAT16, {1});
  t.add_int32_data(0x4000);
  CHECK(read(t).number(0) == 2);
}

TEST_CASE("tensor file: raw bytes, scalars and empty tensors") {
  pb::TensorProto t = tensor(pb::TensorProto::FLOAT, {});
  t.set_raw_data(std::string("\0\0\x80\x3f", 4));
  CHECK(read(t).number(0) == 1);
  CHECK(read(t).shape() == Shape{});
  t = tensor(pb::TensorProto::BOOL, {2});
  t.set_raw_data(std::string("\x02\0", 2));
  CHECK(read(t).to_integers() == std::vector<int64_t>{1, 0});  // any other byte than 0 is true
  CHECK(read(tensor(pb::TensorProto::FLOAT, {0, 3})).shape() == Shape{0, 3});
}

TEST_CASE("tensor file: inconsistent ones are refused with M065") {
  pb::TensorProto good = tensor(pb::TensorProto::FLOAT, {2});
  good.add_float_data(1);
  CHECK(error(good) == "M065");
  good.add_float_data(2);
  CHECK(error(good) == "none");
  pb::TensorProto bad = good;
  bad.set_dims(0, -2);
  CHECK(error(bad) == "M065");
  bad = good;
  bad.set_data_type(0);
  CHECK(error(bad) == "M065");
  bad = good;
  bad.add_int32_data(1);
  CHECK(error(bad) == "M065");
  bad = good;
  bad.clear_float_data();
  bad.set_data_location(pb::TensorProto::EXTERNAL);
  bad.add_external_data()->set_key("location");
  bad.mutable_external_data(0)->set_value("/etc/passwd");
  CHECK(error(bad) == "M065");
  bad = good;
  bad.set_dims(0, int64_t{1} << 61);
  CHECK(error(bad) == "M051");
  CHECK(error(tensor(pb::TensorProto::STRING, {0})) == "M041");
  const TemporaryFolder folder;
  write_bytes(folder / "t.pb", good.SerializeAsString().substr(1));
  CHECK(error_id([&] { onnx_io::read_tensor_file(folder / "t.pb"); }) == "M065");
  write_bytes(folder / "t.pb", "");
  CHECK(error_id([&] { onnx_io::read_tensor_file(folder / "t.pb"); }) == "M065");
  CHECK(error_id([&] { onnx_io::read_tensor_file(folder / "absent.pb"); }) == "M010");
}

}  // namespace mpc::test
