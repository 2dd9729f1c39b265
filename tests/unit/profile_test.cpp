#include <cmath>
#include <functional>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "compiler/base/error.h"
#include "compiler/cost/estimate.h"
#include "compiler/cost/profile.h"
#include "compiler/ops/builder.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using Json = nlohmann::json;

/// 1 GFLOP/s and 1 GB/s, so that the roofline of f FLOPs and b bytes is max(f, b) nanoseconds.
DeviceProfile round_rates() {
  DeviceProfile device;
  device.backend = "cpu";
  device.hardware = "a machine";
  device.rates = {1e9, 1e9, 1e9, 1e9, 1e-6, 1e9};
  return device;
}

constexpr OpKey kMatMul{OpKind::MatMul, Arithmetic::f32, false};

Json good_profile() {
  Profile profile;
  profile.devices.push_back(round_rates());
  profile.devices[0].add(kMatMul, {1e6, 1e4, 2e-3});
  profile.devices[0].add({OpKind::Relu, Arithmetic::f32, true}, {10, 80, 1e-6});
  profile.links.push_back({"cpu", "cpu", 1e10, 1e-5});
  return Json::parse(print_profile(profile));
}

TEST_CASE("profile: a node that was timed costs what it took, whatever else was timed") {
  DeviceProfile device = round_rates();
  device.add(kMatMul, {1e6, 1e4, 2e-3});
  device.add(kMatMul, {2e6, 1e4, 8e-3});
  device.add(kMatMul, {1e6, 4e4, 1e-3});
  // The others weigh at most 1e-6 / (ln 2)^2 of it.
  CHECK(device.kernel_seconds(kMatMul, 1e6, 1e4) == doctest::Approx(2e-3).epsilon(1e-4));
  CHECK(device.kernel_seconds(kMatMul, 2e6, 1e4) == doctest::Approx(8e-3).epsilon(1e-4));
}

TEST_CASE("profile: between timed nodes and beyond them the roofline scales what they took") {
  DeviceProfile device = round_rates();
  device.add(kMatMul, {1e6, 1e4, 2e-3});  // twice its roofline of 1 ms
  device.add(kMatMul, {4e6, 1e4, 8e-3});  // and twice again
  // Kernels take 1 us whatever they do: a tenth of a percent here.
  CHECK(device.kernel_seconds(kMatMul, 2e6, 1e4) == doctest::Approx(4e-3).epsilon(1e-3));
  // At 250 and 1,000 times the FLOPs of the samples the roofline weighs 5.9 %: 2^0.941.
  CHECK(device.kernel_seconds(kMatMul, 1e9, 1e4) == doctest::Approx(1.92).epsilon(2e-3));
  // Half way between ratios of 1 and 4, by the logarithm of the work, the ratio is 2.
  DeviceProfile uneven = round_rates();
  uneven.add(kMatMul, {1e6, 1e4, 1e-3});
  uneven.add(kMatMul, {4e6, 1e4, 16e-3});
  CHECK(uneven.kernel_seconds(kMatMul, 2e6, 1e4) == doctest::Approx(4e-3).epsilon(1e-3));
}

TEST_CASE("profile: a node without work says nothing of one with much") {
  DeviceProfile device = round_rates();
  device.rates.launch_s = 2e-7;
  device.add(kMatMul, {5, 24, 5e-7});  // 20 times its roofline, and two and a half times what any kernel takes
  CHECK(device.kernel_seconds(kMatMul, 5, 24) == doctest::Approx(5e-7).epsilon(1e-5));
  CHECK(device.kernel_seconds(kMatMul, 1e7, 5e7) < 1.5 * 5e-2);
  CHECK(device.kernel_seconds(kMatMul, 1e7, 5e7) > 5e-2);
}

TEST_CASE(
    "profile: what was timed in the other kind of step is nearer than the roofline, and the roofline is the last") {
  DeviceProfile device = round_rates();
  device.add(kMatMul, {1e6, 1e4, 3e-3});
  CHECK(device.kernel_seconds({OpKind::MatMul, Arithmetic::f32, true}, 1e6, 1e4) ==
        doctest::Approx(3e-3).epsilon(1e-6));
  CHECK(device.kernel_seconds({OpKind::Relu, Arithmetic::f32, false}, 10, 5e3) == doctest::Approx(5e-6));
  CHECK(device.kernel_seconds({OpKind::Relu, Arithmetic::f32, false}, 0, 0) > 0);
}

TEST_CASE("profile: samples in one type of 16 bits stand for the other, and never for f32") {
  DeviceProfile device = round_rates();
  device.add({OpKind::MatMul, Arithmetic::bf16, false}, {1e6, 1e4, 3e-3});
  device.add({OpKind::MatMul, Arithmetic::bf16, true}, {1e6, 1e4, 5e-3});
  CHECK(device.kernel_seconds({OpKind::MatMul, Arithmetic::f16, false}, 1e6, 1e4) ==
        doctest::Approx(3e-3).epsilon(1e-6));
  CHECK(device.kernel_seconds({OpKind::MatMul, Arithmetic::f16, true}, 1e6, 1e4) ==
        doctest::Approx(5e-3).epsilon(1e-6));
  CHECK(device.kernel_seconds(kMatMul, 1e6, 1e4) == doctest::Approx(1e-3).epsilon(1e-6));
}

TEST_CASE("estimate: a node runs at the rate of its narrowest operand, and of TF32 where the device rounds to it") {
  constexpr double kFlops = 2.0 * 1024 * 1024 * 1024;
  const auto product = [](DType dtype) {
    Graph graph;
    const ValueId a = graph.add_input("a", dtype, Shape{1024, 1024});
    const ValueId b = graph.add_input("b", dtype, Shape{1024, 1024});
    // Products of 16 bits that make gradients of weights write f32.
    const Attributes attributes = dtype == DType::f32 ? Attributes{} : Attributes{{"to", std::string("f32")}};
    append(graph, OpKind::Gemm, {a, b}, attributes, {"product", "", Phase::forward, {}, {}});
    return graph;
  };
  Device device;
  device.rates = {1e12, 8e12, 1e11, 1e15, 0, 1e10, 4e12};
  const auto seconds = [&](DType dtype) { return node_seconds(product(dtype), NodeId(0), device); };
  CHECK(seconds(DType::f32) == doctest::Approx(kFlops / 1e12));
  CHECK(seconds(DType::bf16) == doctest::Approx(kFlops / 8e12));
  device.rounds_to_tf32 = true;
  CHECK(seconds(DType::f32) == doctest::Approx(kFlops / 4e12));
  CHECK(seconds(DType::f16) == doctest::Approx(kFlops / 8e12));
  device.rates.flops_tf32 = 0;  // it has no such units
  CHECK(seconds(DType::f32) == doctest::Approx(kFlops / 1e12));
}

TEST_CASE("estimate: of a table the rows that are taken count, and a Reshape is nothing") {
  Graph graph;
  const ValueId table = graph.add_input("table", DType::f32, Shape{50'000, 1000});
  const ValueId ids = graph.add_input("ids", DType::i64, Shape{100});
  const NodeId gather = append(graph, OpKind::Gather, {table, ids}, {}, {"rows", "", Phase::forward, {}, {}});
  const Attributes shape{{"shape", Attribute(std::vector<int64_t>{1000, 100})}};
  const NodeId reshape =
      append(graph, OpKind::Reshape, {graph.node(gather).outputs[0]}, shape, {"turned", "", Phase::forward, {}, {}});
  Device device;
  device.rates = {1e12, 1e12, 1e12, 1e9, 1e-6, 1e9};
  // 100 rows of 4000 bytes are read and written, 100 indices of 8 bytes read.
  CHECK(node_seconds(graph, gather, device) == doctest::Approx(1e-6 + (2 * 400'000 + 800) / 1e9));
  CHECK(node_seconds(graph, reshape, device) == 0);
  CHECK(operand_bytes(graph, gather) == 50'000 * 4000 + 400'000 + 800);
}

TEST_CASE("profile: written and read again it is the same") {
  const std::string text = good_profile().dump();
  const Profile profile = parse_profile(text, "p.json");
  CHECK(Json::parse(print_profile(profile)) == good_profile());
  REQUIRE(profile.devices.size() == 1);
  CHECK(profile.devices[0].hardware == "a machine");
  CHECK(profile.devices[0].samples().at(kMatMul).front() == OpSample{1e6, 1e4, 2e-3});
}

TEST_CASE("profile: what was timed in TF32 counts under that precision alone, and what is no product is as in f32") {
  Profile profile;
  profile.devices.push_back(round_rates());
  profile.devices[0].versions = {{"driver", "CUDA 13.0"}};
  profile.devices[0].rates.flops_tf32 = 8e9;
  profile.devices[0].add(kMatMul, {1e6, 1e4, 2e-3});
  profile.devices[0].add({OpKind::MatMul, Arithmetic::tf32, false}, {1e6, 1e4, 5e-4});
  profile.devices[0].add({OpKind::Relu, Arithmetic::f32, false}, {10, 80, 1e-6});
  profile = parse_profile(print_profile(profile), "p.json");
  const DeviceProfile& read = profile.devices[0];
  CHECK(read.versions.at("driver") == "CUDA 13.0");
  CHECK(read.kernel_seconds(kMatMul, 1e6, 1e4) == doctest::Approx(2e-3).epsilon(1e-6));
  CHECK(read.kernel_seconds({OpKind::MatMul, Arithmetic::tf32, false}, 1e6, 1e4) ==
        doctest::Approx(5e-4).epsilon(1e-6));
  CHECK(read.kernel_seconds({OpKind::Relu, Arithmetic::tf32, false}, 10, 80) == doctest::Approx(1e-6).epsilon(1e-6));
}

TEST_CASE("profile: a link within a GPU is another than that between two") {
  Profile profile;
  profile.devices.push_back(round_rates());
  profile.devices[0].backend = "cuda";
  profile.links = {{"cuda", "cuda", 1e12, 2e-6, true}, {"cuda", "cuda", 1e11, 8e-6, false}};
  profile = parse_profile(print_profile(profile), "p.json");
  Cluster cluster = parse_devices("cuda:0*2,cuda:1", kAssumedGpuKind);
  apply_profile(profile, "p.json", cluster);
  CHECK(cluster.notes.empty());
  CHECK(cluster.link(DeviceId(0), DeviceId(1)).bytes_per_second == 1e12);
  CHECK(cluster.link(DeviceId(1), DeviceId(2)).bytes_per_second == 1e11);
  CHECK(cluster.link(DeviceId(2), DeviceId(0)).latency_s == 8e-6);
}

TEST_CASE("profile: a malformed one is refused with the place") {
  const auto refusal = [](const std::function<void(Json&)>& change) {
    Json json = good_profile();
    change(json);
    const auto error = test::error_of([&] { (void)parse_profile(json.dump(), "p.json"); });
    return error ? std::string(error_name(error->id())) + " " + error->where() : std::string("none");
  };
  CHECK(refusal([](Json&) {}) == "none");
  CHECK(refusal([](Json& j) { j["version"] = 2; }) == "M067 p.json: version");
  CHECK(refusal([](Json& j) { j["more"] = 1; }).starts_with("M067"));
  CHECK(refusal([](Json& j) { j["devices"] = Json::array(); }) == "M067 p.json: devices");
  CHECK(refusal([](Json& j) { j["devices"].push_back(j["devices"][0]); }) == "M067 p.json: devices[1]");
  CHECK(refusal([](Json& j) { j["devices"][0]["backend"] = "<script>"; }) == "M067 p.json: devices[0].backend");
  CHECK(refusal([](Json& j) { j["devices"][0]["flops"]["f32"] = 0; }).starts_with("M067 p.json: devices[0].flops.f32"));
  CHECK(refusal([](Json& j) { j["devices"][0]["launch_seconds"] = -1; }).starts_with("M067"));
  CHECK(refusal([](Json& j) { j["devices"][0]["ops"][0]["op"] = "Teleport"; }) == "M067 p.json: devices[0].ops[0].op");
  CHECK(refusal([](Json& j) { j["devices"][0]["ops"].push_back(j["devices"][0]["ops"][0]); }) ==
        "M067 p.json: devices[0].ops[2]");
  Json::array_t few = {1, 2};
  CHECK(refusal([&](Json& j) { j["devices"][0]["ops"][0]["samples"][0] = few; }).starts_with("M067"));
  CHECK(refusal([](Json& j) { j["devices"][0]["ops"][0]["samples"][0][2] = 0; }).starts_with("M067"));
  CHECK(refusal([](Json& j) { j["devices"][0]["ops"][0]["samples"] = Json::array(); }).starts_with("M067"));
  CHECK(refusal([](Json& j) { j["devices"][0]["ops"][0]["samples"] = Json(5000, Json{1, 1, 1}); }).starts_with("M067"));
  CHECK(refusal([](Json& j) { j["links"].push_back(j["links"][0]); }) == "M067 p.json: links[1]");
  CHECK(test::error_id([] { (void)parse_profile("{\"version\":1e999}", "p"); }) == "M067");
}

TEST_CASE("profile: clusters take its rates, and say what keeps its own") {
  const Profile profile = parse_profile(good_profile().dump(), "p.json");
  Cluster cluster = parse_devices("cpu:2", kAssumedGpuKind);
  apply_profile(profile, "p.json", cluster);
  CHECK(cluster.notes.empty());
  CHECK(cluster.devices[1].rates.flops_f32 == 1e9);
  CHECK(cluster.link(DeviceId(0), DeviceId(1)).bytes_per_second == 1e10);
  Graph graph;
  const ValueId x = graph.add_input("x", DType::f32, Shape{100, 50});
  const NodeId node = append(graph, OpKind::MatMul, {x, graph.add_input("w", DType::f32, Shape{50, 100})}, {},
                             {"m", "", Phase::forward, {}, {}});
  // 10^6 FLOPs, and 4 * (5000 + 5000 + 10000) bytes: twice the roofline, as the only sample, after the launch; the
  // roofline itself weighs two thousandths.
  CHECK(node_seconds(graph, node, cluster.devices[0]) == doctest::Approx(1e-6 + 2e-3).epsilon(2e-3));

  Cluster mixed = parse_devices("cpu,cuda:0", kAssumedGpuKind);
  const double gpu_rate = mixed.devices[1].rates.flops_f32;
  apply_profile(profile, "p.json", mixed);
  CHECK(mixed.devices[1].rates.flops_f32 == gpu_rate);
  CHECK(mixed.notes.size() == 3);  // the GPU, and the links to and from it
  Cluster gpus = parse_devices("cuda:0", kAssumedGpuKind);
  CHECK(test::error_id([&] { apply_profile(profile, "p.json", gpus); }) == "M004");
}

}  // namespace
}  // namespace mpc
