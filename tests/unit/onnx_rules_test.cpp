#include <doctest/doctest.h>

#include "tests/unit/onnx_support.h"

// The import rules, by what the graphs they write compute. Numbers are small integers, so results are exact unless a
// tolerance is stated.

namespace mpc::test {
namespace {

using Numbers = std::vector<double>;

/// Output 0 of a graph with one input `x` that counts 0, 1, 2, ...
Numbers of_counting(const Shape& shape, const std::string& graph, int opset = 21) {
  return run(parse_graph(graph, opset), {{"x", counting(shape)}});
}

/// "[2,3]".
std::string to_brackets(const Shape& shape) {
  std::string text;
  for (const int64_t dim : shape) text += (text.empty() ? "[" : ",") + std::to_string(dim);
  return text + "]";
}

std::string ops_of(const std::string& graph, int opset = 21) {
  return op_names(import(parse_graph(graph, opset)));
}

}  // namespace

TEST_CASE("rules: constants in every form") {
  CHECK(of_counting({2}, "(float[2] x) => (float[2] y) { c = Constant<value_float = 2.0>() y = Add(x, c) }") ==
        Numbers{2, 3});
  CHECK(of_counting({2}, "(float[2] x) => (float[2] y) { c = Constant<value_floats = [2.0, 5.0]>() y = Add(x, c) }") ==
        Numbers{2, 6});
  CHECK(of_counting(
            {2},
            "(float[2] x) => (float[2] y) { c = Constant<value_ints = [2, 5]>() d = CastLike(c, x) y = Add(x, d) }") ==
        Numbers{2, 6});
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y) { c = Constant() y = Add(x, c) }")) == "M031");
}

TEST_CASE("rules: Shape with start and end, Size") {
  CHECK(of_counting({2, 3, 4}, "(float[2,3,4] x) => (int64[2] y) { y = Shape<start = 1>(x) }") == Numbers{3, 4});
  CHECK(of_counting({2, 3, 4}, "(float[2,3,4] x) => (int64[1] y) { y = Shape<start = -9, end = -2>(x) }") ==
        Numbers{2});
  CHECK(of_counting({2, 3, 4}, "(float[2,3,4] x) => (int64[0] y) { y = Shape<start = 2, end = 1>(x) }") == Numbers{});
  CHECK(of_counting({2, 3, 4}, "(float[2,3,4] x) => (int64 y) { y = Size(x) }") == Numbers{24});
}

TEST_CASE("rules: Range counts up, down and not at all") {
  const auto range = [](int64_t start, int64_t limit, int64_t delta) {
    const auto constant = [](const char* name, int64_t value) {
      return std::string(name) + " = Constant<value_int = " + std::to_string(value) + ">() ";
    };
    return parse_graph("() => (int64[N] y) { " + constant("a", start) + constant("b", limit) + constant("c", delta) +
                       "y = Range(a, b, c) }");
  };
  CHECK(run(range(1, 8, 3), {}) == Numbers{1, 4, 7});
  CHECK(run(range(5, 0, -2), {}) == Numbers{5, 3, 1});
  CHECK(run(range(5, 5, 1), {}).empty());
  CHECK(import_error(range(0, 5, 0)) == "M033");
}

TEST_CASE("rules: EyeLike and ConstantOfShape") {
  CHECK(of_counting({2, 3}, "(float[2,3] x) => (float[2,3] y) { y = EyeLike<k = 1>(x) }") == Numbers{0, 1, 0, 0, 0, 1});
  CHECK(of_counting({1},
                    "(float[1] x) => (float[2] y) { s = Constant<value_ints = [2]>() c = ConstantOfShape<value = "
                    "float[1] {3}>(s) y = Add(x, c) }") == Numbers{3, 3});
  CHECK(import_error(parse_graph("() => (float[2] y) { s = Constant<value_ints = [-2]>() y = ConstantOfShape(s) }")) ==
        "M033");
}

TEST_CASE("rules: Squeeze, Unsqueeze and Flatten are reshapes") {
  CHECK(ops_of("(float[1,3,1] x) => (float[3] y) { y = Squeeze(x) }") == "Reshape");
  const Graph graph = import(
      parse_graph("(float[2,3] x) => (float[1,2,3,1] y) { a = Constant<value_ints = [0, -1]>() y = Unsqueeze(x, a) }"));
  CHECK(graph.value(graph.outputs[0].value).shape == Shape{1, 2, 3, 1});
  const auto unsqueeze = [](const std::string& axes) {
    return import_error(parse_graph("(float[2] x) => (float[N,M,K] y) { a = Constant<value_ints = [" + axes +
                                    "]>() y = Unsqueeze(x, a) }"));
  };
  CHECK(unsqueeze("0, 2") == "none");
  CHECK(unsqueeze("0, 0") == "M031");
  CHECK(unsqueeze("0, -3") == "M031");
  CHECK(unsqueeze("0, 3") == "M031");
  CHECK(import_error(parse_graph(
            "(float[2,1] x) => (float[2] y) { a = Constant<value_ints = [0]>() y = Squeeze(x, a) }")) == "M032");
  const Graph flat = import(parse_graph("(float[2,3,4] x) => (float[6,4] y) { y = Flatten<axis = -1>(x) }"));
  CHECK(flat.value(flat.outputs[0].value).shape == Shape{6, 4});
}

TEST_CASE("rules: operands that opset 12 and before gave as attributes") {
  CHECK(of_counting({2, 3}, "(float[2,3] x) => (float[2] y) { y = ReduceSum<axes = [1], keepdims = 0>(x) }", 11) ==
        Numbers{3, 12});
  CHECK(of_counting({4}, "(float[4] x) => (float[2] y) { y = Slice<starts = [1], ends = [3]>(x) }", 9) ==
        Numbers{1, 2});
  CHECK(of_counting({4}, "(float[4] x) => (float[3] y) { a, y = Split<axis = 0, split = [1, 3]>(x) }", 11) ==
        Numbers{1, 2, 3});
  CHECK(of_counting({4}, "(float[4] x) => (float[2] y) { a, y = Split(x) }", 13) == Numbers{2, 3});
  CHECK(of_counting({4}, "(float[4] x) => (float[4] y) { y = Clip<min = 1.0, max = 2.0>(x) }", 6) ==
        Numbers{1, 1, 2, 2});
  CHECK(of_counting({2}, "(float[2] x) => (float[4] y) { y = Pad<pads = [1, 1], value = 7.0>(x) }", 2) ==
        Numbers{7, 0, 1, 7});
  CHECK(of_counting({1, 2}, "(float[1,2] x) => (float[2] y) { y = Squeeze<axes = [0]>(x) }", 11) == Numbers{0, 1});
  CHECK(of_counting({4}, "(float[4] x) => (float[2,2] y) { y = Reshape<shape = [2, -1]>(x) }", 1) ==
        Numbers{0, 1, 2, 3});
  CHECK(of_counting({2}, "(float[2] x) => (int64[2] y) { y = Cast<to = \"INT64\">(x) }", 1) == Numbers{0, 1});
}

TEST_CASE("rules: before opset 7 the second operand is placed by an axis") {
  CHECK(
      of_counting(
          {2, 3, 1},
          "(float[2,3,1] x) => (float[2,3,1] y) <float[3] b = {10, 20, 30}> { y = Add<broadcast = 1, axis = 1>(x, b) }",
          6) == Numbers{10, 21, 32, 13, 24, 35});
  CHECK(import_error(parse_graph(
            "(float[2,3] x) => (float[2,3] y) <float[3] b = {1, 2, 3}> { y = Add<broadcast = 1, axis = 2>(x, b) }",
            6)) == "M031");
}

TEST_CASE("rules: softmax over several dimensions before opset 13, over one since") {
  const std::string graph = "(float[1,2,2] x) => (float[1,2,2] y) { y = Softmax<axis = 1>(x) }";
  CHECK(ops_of(graph, 11) == "Reshape Softmax Reshape");
  CHECK(ops_of(graph, 13) == "Softmax");
  const Numbers old = of_counting({1, 2, 2}, graph, 11);
  CHECK(old[0] + old[1] + old[2] + old[3] == doctest::Approx(1).epsilon(1e-6));  // f32 rounding of four terms
  const Numbers now = of_counting({1, 2, 2}, graph, 13);
  CHECK(now[0] + now[2] == doctest::Approx(1).epsilon(1e-6));
}

TEST_CASE("rules: Hardmax marks the first maximum") {
  CHECK(run(parse_graph("(float[2,3] x) => (float[2,3] y) { y = Hardmax(x) }"),
            {{"x", floats({2, 3}, {1, 5, 5, 2, 0, 1})}}) == Numbers{0, 1, 0, 1, 0, 0});
}

TEST_CASE("rules: sums, means and extremes of many operands are chains that keep the node's name") {
  const std::string head = "(float[2] x) => (float[2] y) { a = Abs(x) b = Neg(x) ";
  CHECK(of_counting({2}, head + "y = Sum(x, a, b) }") == Numbers{0, 1});
  CHECK(of_counting({2}, head + "y = Mean(x, a) }") == Numbers{0, 1});
  CHECK(of_counting({2}, head + "y = Max(b, x, b) }") == Numbers{0, 1});
  CHECK(of_counting({2}, head + "y = Min(a, b, x) }") == Numbers{0, -1});
  const Graph graph = import(parse_graph(head + "y = Sum(x, a, b) }"));
  CHECK(graph.nodes().back().name == "y");
  CHECK(import(parse_graph("(float[2] x) => (float[2] y) { y = Sum(x) }")).node_count() == 0);
}

TEST_CASE("rules: Clip with bounds that the step computes") {
  const pb::ModelProto proto =
      parse_graph("(float[3] x, float low, float high) => (float[3] y) { y = Clip(x, low, high) }");
  CHECK(op_names(import(proto)) == "Max Min");
  CHECK(run(proto, {{"x", counting({3})}, {"low", floats({}, {1})}, {"high", floats({}, {1.5})}}) ==
        Numbers{1, 1, 1.5});
}

TEST_CASE("rules: DepthToSpace and SpaceToDepth are inverse, in both orders") {
  const Shape shape{1, 8, 1, 1};
  CHECK(of_counting(shape, "(float[1,8,1,1] x) => (float[1,2,2,2] y) { y = DepthToSpace<blocksize = 2>(x) }") ==
        Numbers{0, 2, 4, 6, 1, 3, 5, 7});
  CHECK(of_counting(
            shape, "(float[1,8,1,1] x) => (float[1,2,2,2] y) { y = DepthToSpace<blocksize = 2, mode = \"CRD\">(x) }") ==
        Numbers{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(of_counting(shape,
                    "(float[1,8,1,1] x) => (float[1,8,1,1] y) { a = DepthToSpace<blocksize = 2>(x) y = "
                    "SpaceToDepth<blocksize = 2>(a) }") == Numbers{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(import_error(parse_graph("(float[1,6,1,1] x) => (float[a,b,c,d] y) { y = DepthToSpace<blocksize = 2>(x) }")) ==
        "M032");
  CHECK(import_error(parse_graph("(float[1,4,1,1] x) => (float[a,b,c,d] y) { y = DepthToSpace<blocksize = 0>(x) }")) ==
        "M031");
}

TEST_CASE("rules: global pools are reductions") {
  CHECK(of_counting({1, 2, 1, 2}, "(float[1,2,1,2] x) => (float[1,2,1,1] y) { y = GlobalAveragePool(x) }") ==
        Numbers{0.5, 2.5});
  CHECK(of_counting({1, 2, 1, 2}, "(float[1,2,1,2] x) => (float[1,2,1,1] y) { y = GlobalMaxPool(x) }") ==
        Numbers{1, 3});
  CHECK(of_counting({1, 1, 1, 2}, "(float[1,1,1,2] x) => (float[1,1,1,1] y) { y = GlobalLpPool<p = 1>(x) }") ==
        Numbers{1});
  CHECK(import_error(parse_graph("(float[1,1,2] x) => (float[1,1,1] y) { y = GlobalLpPool<p = 3>(x) }")) == "M046");
}

TEST_CASE("rules: Upsample and Resize of opset 10 repeat elements") {
  const std::string scales = "<float[4] s = {1, 1, 2, 1}> ";
  CHECK(of_counting({1, 1, 2, 1}, "(float[1,1,2,1] x) => (float[1,1,4,1] y) " + scales + "{ y = Upsample(x, s) }", 9) ==
        Numbers{0, 0, 1, 1});
  CHECK(of_counting({1, 1, 2, 1},
                    "(float[1,1,2,1] x) => (float[1,1,4,1] y) { y = Upsample<scales = [1.0, 1.0, 2.0, 1.0]>(x) }",
                    7) == Numbers{0, 0, 1, 1});
  CHECK(of_counting({1, 1, 2, 1}, "(float[1,1,2,1] x) => (float[1,1,4,1] y) " + scales + "{ y = Resize(x, s) }", 10) ==
        Numbers{0, 0, 1, 1});
  const std::string none = "<float[4] s = {1, 1, 2, 1}, float[0] none = {}> ";
  CHECK(of_counting({1, 1, 2, 1}, "(float[1,1,2,1] x) => (float[1,1,4,1] y) " + none + "{ y = Resize(x, none, s) }",
                    13) == Numbers{0, 0, 1, 1});
}

TEST_CASE("rules: Einsum is written as products, sums and transposes") {
  // x counts 0, 1, 2, ...; rows of x(2,3): (0, 1, 2) and (3, 4, 5).
  const auto of = [](const Shape& shape, const std::string& equation, const std::string& result,
                     const std::string& more = "") {
    const std::string operands = more.empty() ? "x" : "x, w";
    return of_counting(shape, "(float" + to_brackets(shape) + " x) => (float" + result + " y) " + more +
                                  " { y = Einsum<equation = \"" + equation + "\">(" + operands + ") }");
  };
  const std::string w23 = "<float[2,3] w = {1, 10, 100, 2, 20, 200}>";
  CHECK(of({2, 3}, "ij->ji", "[3,2]") == Numbers{0, 3, 1, 4, 2, 5});
  CHECK(of({2, 3}, "ij -> i", "[2]") == Numbers{3, 12});
  CHECK(of({2, 3}, "ij->", "") == Numbers{15});
  CHECK(of({2, 3}, "ba", "[3,2]") == Numbers{0, 3, 1, 4, 2, 5});  // implied: sorted
  CHECK(of({2, 3}, "ij,kj->ik", "[2,2]", w23) == Numbers{210, 420, 543, 1086});
  CHECK(of({2, 3}, "ij,kj", "[2,2]", w23) == Numbers{210, 420, 543, 1086});  // implied: j is in both
  CHECK(of({2, 3}, "ij,ij->", "", w23) == Numbers{210 + 1086});
  CHECK(of({2, 3}, "ij,ij->ij", "[2,3]", w23) == Numbers{0, 10, 200, 6, 80, 1000});
  CHECK(of({2, 3}, "ij,ij->j", "[3]", w23) == Numbers{6, 90, 1200});
  CHECK(of({2}, "i,jk->kji", "[3,2,2]", w23) == Numbers{0, 1, 0, 2, 0, 10, 0, 20, 0, 100, 0, 200});  // outer product
  CHECK(of({2, 3}, "ij,ik->j", "[3]", w23) == Numbers{666, 111 + 4 * 222, 222 + 5 * 222});  // k is summed first
  // heads: (b, q, h, d) and (b, k, h, d), d = 1: with one row per side it is a product per head
  CHECK(of({1, 1, 3, 2}, "bqhd,bkhd->bhqk", "[1,3,1,1]", "<float[1,1,3,2] w = {1, 2, 3, 4, 5, 6}>") ==
        Numbers{2, 18, 50});
  CHECK(of({2, 1, 3}, "...ij,jk->...ik", "[2,1,1]", "<float[3,1] w = {1, 10, 100}>") == Numbers{210, 543});
  CHECK(of({2, 2}, "...i,...i->...", "[2]", "<float[2,2] w = {1, 2, 3, 4}>") == Numbers{2, 18});
  CHECK(of_counting({2, 2}, "(float[2,2] x) => (float[2,2] y) { y = Einsum<equation = \"ij,jk,kl->il\">(x, x, x) }") ==
        Numbers{6, 11, 22, 39});  // (0 1; 2 3) cubed
  // A Linear layer's product takes its weight as it is but for one transpose.
  CHECK(ops_of("(float[2,5,3] x) => (float[2,5,4] y) <float[4,3] w = {0,0,0,0,0,0,0,0,0,0,0,0}> { y = Einsum<equation "
               "= \"bti,oi->bto\">(x, w) }") == "Transpose MatMul");
}

TEST_CASE("rules: an Einsum that does not fit its operands is refused, and so is what is not supported") {
  const auto error = [](const std::string& equation, const std::string& operands = "x, x") {
    return import_error(parse_graph("(float[2,3] x, float[1,3] one) => (float[N] y) { y = Einsum<equation = \"" +
                                    equation + "\">(" + operands + ") }"));
  };
  CHECK(error("ij,ij->ij") == "none");
  CHECK(error("ij->ij") == "M031");     // one operand
  CHECK(error("ij,i1->ij") == "M031");  // no letter
  CHECK(error("ij,......->ij") == "M031");
  CHECK(error("ij,ij->ik") == "M031");  // nobody has k
  CHECK(error("ij,ij->ii") == "M031");
  CHECK(error("ij,i->ij") == "M032");  // the rank
  CHECK(error("ij,ijk...->ij") == "M032");
  CHECK(error("ij,jk->ik") == "M032");  // 3 and 2
  CHECK(error("ii,ij->j") == "M046");
  CHECK(error("ij,ij->ij", "x, one") == "M046");
  CHECK(error("abcd") == "M031");
  CHECK(import_error(parse_graph("(float[2,1,1,1,1] x) => (float[N] y) { y = Einsum<equation = "
                                 "\"abcde,fghij->abcdefghij\">(x, x) }")) == "M046");  // rank 10
}

TEST_CASE("rules: ConvTranspose is the input gradient of a convolution") {
  // each input spreads over kernel 2 with stride 2: 0*w, 1*w, 2*w
  const std::string graph =
      "(float[1,1,3] x) => (float[1,1,N] y) <float[1,1,2] w = {1, 10}, float[1] b = {100}> { y = ConvTranspose<strides "
      "= [2]>(x, w, b) }";
  CHECK(of_counting({1, 1, 3}, graph) == Numbers{100, 100, 101, 110, 102, 120});
  CHECK(import_error(parse_graph(
            "(float[1,2,3] x) => (float[a,b,c] y) <float[1,1,2] w = {1, 10}> { y = ConvTranspose(x, w) }")) == "M032");
  CHECK(import_error(parse_graph("(float[1,1,3] x) => (float[a,b,c] y) <float[1,1,2] w = {1, 10}> { y = "
                                 "ConvTranspose<strides = [0]>(x, w) }")) == "M031");
}

TEST_CASE("rules: batch statistics without parameters to update are written with plain ops") {
  const pb::ModelProto proto = parse_graph(
      R"((float[2, 1] x, float[1] s, float[1] b, float[1] m, float[1] v) => (float[2, 1] y, float[1] rm, float[1] rv)
    { y, rm, rv = BatchNormalization<training_mode = 1, momentum = 0.5, epsilon = 0.0>(x, s, b, m, v) })");
  const onnx_io::Model model = load(proto);
  const auto results = run(model, import(model),
                           {{"x", floats({2, 1}, {1, 3})},
                            {"s", floats({1}, {2})},
                            {"b", floats({1}, {5})},
                            {"m", floats({1}, {4})},
                            {"v", floats({1}, {7})}});
  CHECK(results[0].number(0) == 3);  // (1 - 2) / 1 * 2 + 5
  CHECK(results[0].number(1) == 7);
  CHECK(results[1].number(0) == 3);  // (4 + 2) / 2
  CHECK(results[2].number(0) == 4);  // (7 + 1) / 2
}

TEST_CASE("rules: InstanceNormalization centres and scales every channel") {
  const Numbers result = of_counting({1, 2, 2},
                                     "(float[1,2,2] x) => (float[1,2,2] y) <float[2] s = {1, 2}, float[2] b = {0, 10}> "
                                     "{ y = InstanceNormalization<epsilon = 0.0>(x, s, b) }");
  CHECK(result == Numbers{-1, 1, 8, 12});
}

TEST_CASE("rules: RNN is written as a product of all steps with W, and a product, a sum and a function for each") {
  // x is 0, 1, 2 and both weights are 1: the state is the sum of what it has seen.
  const auto rnn = [](const std::string& attributes, const std::string& operands = "",
                      const std::string& weights = "float[1,1,1] w = {1}, float[1,1,1] r = {1}") {
    return parse_graph("(float[3,1,1] x) => (float[a,b,c,d] y) <" + weights + "> { y = RNN<hidden_size = 1" +
                       attributes + ">(x, w, r" + operands + ") }");
  };
  const auto of = [&](const pb::ModelProto& model) { return run(model, {{"x", counting({3, 1, 1})}}); };
  const std::string relu = ", activations = [\"Relu\"]";
  CHECK(of(rnn(relu)) == Numbers{0, 1, 3});
  CHECK(of(rnn(relu + ", direction = \"reverse\"")) == Numbers{3, 3, 2});
  CHECK(of(rnn(relu + ", clip = 2.0")) == Numbers{0, 1, 2});
  const std::string one = "float[1,1,1] w = {1}, float[1,1,1] r = {1}";
  // Both halves of the bias are added; the state before the first step is 10.
  CHECK(of(rnn(relu, ", b", one + ", float[1,2] b = {20, 100}")) == Numbers{120, 241, 363});
  CHECK(of(rnn(relu, ", , , h", one + ", float[1,1,1] h = {10}")) == Numbers{10, 11, 13});
  // Of two steps: behind them zeros, and backwards the first step is the second one.
  CHECK(of(rnn(relu, ", , l", one + ", int32[1] l = {2}")) == Numbers{0, 1, 0});
  CHECK(of(rnn(relu + ", direction = \"reverse\"", ", , l", one + ", int32[1] l = {2}")) == Numbers{1, 1, 0});
  const std::string two = "float[2,1,1] w = {1, 2}, float[2,1,1] r = {1, 1}";
  CHECK(of(rnn(", direction = \"bidirectional\", activations = [\"Relu\", \"relu\"]", "", two)) ==
        Numbers{0, 6, 1, 6, 3, 4});
  // The numbers of activations are in one list, each taking what it has.
  CHECK(of(rnn(", direction = \"bidirectional\", activations = [\"Relu\", \"LeakyRelu\"], activation_alpha = [0.5]", "",
               "float[2,1,1] w = {1, -2}, float[2,1,1] r = {1, 0}")) == Numbers{0, 0, 1, -1, 3, -2});
  const std::string last = "(float[1,3,1] x) => (float[a,b,c] h) <" + one +
                           "> { y, h = RNN<hidden_size = 1, layout = 1" + relu + ">(x, w, r) }";
  CHECK(of_counting({1, 3, 1}, last) == Numbers{3});
  CHECK(import_error(rnn(", activations = [\"Affine\"]")) == "M046");
  CHECK(import_error(rnn(", activations = [\"Relu\", \"Relu\"]")) == "M031");
  CHECK(import_error(rnn(", direction = \"sideways\"")) == "M031");
  CHECK(import_error(rnn(relu, ", b", one + ", float[1,1] b = {20}")) == "M032");
}

TEST_CASE("rules: an attribute that the IR has not is dropped when it says the default, refused with M046 else") {
  CHECK(import_error(parse_graph("(float[1,1,4] x) => (float[1,1,2] y) { y = LpPool<kernel_shape = [3]>(x) }")) ==
        "M040");
  CHECK(import_error(parse_graph("(float[2] x) => (float[2] y) { y = Relu<consumed_inputs = [0]>(x) }", 1)) == "none");
}

}  // namespace mpc::test
