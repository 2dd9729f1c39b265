#include "tests/ops/sample.h"

// Samples of LSTM and its gradients.

namespace mpc::samples {
namespace {

using Inputs = std::vector<std::optional<Operand>>;

struct Sizes {
  int64_t steps, batch, inputs, hidden;
  int64_t directions = 1;
  bool is_batch_first = false;
  DType dtype = DType::f32;

  Operand of(Shape shape) const { return {.dtype = dtype, .shape = shape, .numbers = {}}; }
  Operand x() const { return of(is_batch_first ? Shape{batch, steps, inputs} : Shape{steps, batch, inputs}); }
  Operand w() const { return of({directions, 4 * hidden, inputs}); }
  Operand r() const { return of({directions, 4 * hidden, hidden}); }
  Operand bias() const { return of({directions, 8 * hidden}); }
  Operand state() const {
    return of(is_batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden});
  }
  Operand peepholes() const { return of({directions, 3 * hidden}); }
  Operand y() const {
    return of(is_batch_first ? Shape{batch, steps, directions, hidden} : Shape{steps, directions, batch, hidden});
  }
  Operand gates() const { return of({steps, directions, batch, 4 * hidden}); }
};

Operand lengths(std::vector<double> numbers) {
  const Shape shape{static_cast<int64_t>(numbers.size())};
  return {.dtype = DType::i32, .shape = shape, .numbers = std::move(numbers)};
}

/// One case for LSTM and LSTMInputGrad. `outputs`: Y, Y_h and Y_c as asked for.
void add(SampleList& list, const std::string& name, const Sizes& sizes, const Inputs& inputs,
         const Attributes& attributes, const std::vector<bool>& outputs) {
  list.push_back({.name = name, .op = OpKind::LSTM, .inputs = inputs, .attributes = attributes, .outputs = outputs});
  Inputs with_gradients = inputs;
  with_gradients.resize(8);
  for (size_t i = 0; i < outputs.size(); ++i) {
    with_gradients.push_back(outputs[i] ? std::optional(i == 0 ? sizes.y() : sizes.state()) : std::nullopt);
  }
  list.push_back({.name = name,
                  .op = OpKind::LSTMInputGrad,
                  .inputs = with_gradients,
                  .attributes = attributes,
                  .outputs = std::vector<bool>(6, true)});
}

void add_lstm(SampleList& list) {
  const std::vector<bool> all = {true, true, true};
  const auto attributes = [](const char* direction, int64_t layout = 0) {
    return Attributes{{"direction", std::string(direction)}, {"layout", layout}};
  };
  const Sizes one{4, 2, 3, 2};
  add(list, "plain", one, {one.x(), one.w(), one.r()}, {}, all);
  add(list, "bias", one, {one.x(), one.w(), one.r(), one.bias()}, {{"hidden_size", int64_t{2}}}, all);
  add(list, "Y only", one, {one.x(), one.w(), one.r(), one.bias()}, {}, {true});
  add(list, "Y_h only", one, {one.x(), one.w(), one.r(), one.bias()}, {}, {false, true});
  add(list, "Y_c only", one, {one.x(), one.w(), one.r(), one.bias()}, {}, {false, false, true});
  add(list, "initial states", one, {one.x(), one.w(), one.r(), one.bias(), {}, one.state(), one.state()}, {}, all);
  add(list, "reverse", one, {one.x(), one.w(), one.r(), one.bias(), {}, one.state(), one.state()},
      attributes("reverse"), all);
  add(list, "peepholes", one, {one.x(), one.w(), one.r(), one.bias(), {}, one.state(), one.state(), one.peepholes()},
      {}, all);
  add(list, "sequence lengths", one, {one.x(), one.w(), one.r(), one.bias(), lengths({4, 2}), one.state(), one.state()},
      {}, all);
  add(list, "sequence lengths, reverse", one,
      {one.x(), one.w(), one.r(), one.bias(), lengths({0, 3}), one.state(), one.state()}, attributes("reverse"), all);

  const Sizes two{3, 2, 2, 3, 2};
  add(list, "bidirectional", two, {two.x(), two.w(), two.r(), two.bias(), {}, two.state(), two.state()},
      attributes("bidirectional"), all);
  add(list, "bidirectional, everything", two,
      {two.x(), two.w(), two.r(), two.bias(), lengths({1, 3}), two.state(), two.state(), two.peepholes()},
      attributes("bidirectional"), all);
  const Sizes batch_first{3, 2, 2, 3, 2, true};
  add(list, "bidirectional, batch first", batch_first,
      {batch_first.x(), batch_first.w(), batch_first.r(), batch_first.bias(), lengths({3, 2}), batch_first.state(),
       batch_first.state()},
      attributes("bidirectional", 1), all);
  const Sizes odd{5, 3, 7, 5};
  add(list, "odd sizes", odd, {odd.x(), odd.w(), odd.r(), odd.bias()}, {}, all);
  const Sizes no_steps{0, 2, 3, 2};
  add(list, "no steps", no_steps,
      {no_steps.x(), no_steps.w(), no_steps.r(), {}, {}, no_steps.state(), no_steps.state()}, {}, all);
  const Sizes empty{2, 0, 3, 2};
  add(list, "an empty batch", empty, {empty.x(), empty.w(), empty.r(), empty.bias()}, {}, all);
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    const Sizes typed{3, 2, 3, 2, 1, false, dtype};
    add(list, std::string(dtype_name(dtype)), typed, {typed.x(), typed.w(), typed.r(), typed.bias()}, {}, all);
  }
}

void add_weight_gradient(SampleList& list) {
  const auto add_case = [&](std::string name, Inputs inputs, Attributes attributes = {}) {
    list.push_back({.name = std::move(name),
                    .op = OpKind::LSTMWeightGrad,
                    .inputs = std::move(inputs),
                    .attributes = std::move(attributes),
                    .outputs = {true, true, true}});
  };
  const Sizes one{4, 2, 3, 2};
  add_case("plain", {one.gates(), one.x(), one.y()});
  add_case("initial state", {one.gates(), one.x(), one.y(), {}, one.state()});
  add_case("reverse", {one.gates(), one.x(), one.y(), {}, one.state()}, {{"direction", std::string("reverse")}});
  const Sizes two{3, 2, 2, 3, 2, true};
  add_case("bidirectional, batch first", {two.gates(), two.x(), two.y(), {}, two.state()},
           {{"direction", std::string("bidirectional")}, {"layout", int64_t{1}}});
  // Beyond a sequence's end the gradients of the gates and Y are zero, as LSTMInputGrad and LSTM make them.
  const Sizes small{2, 2, 1, 1};
  Operand gates = small.gates();
  gates.numbers = {0.1, -0.2, 0.3, 0.4, 0.5, 0.6, -0.7, 0.8, 0.9, 1.0, 1.1, -1.2, 0, 0, 0, 0};
  Operand y = small.y();
  y.numbers = {0.5, -0.25, 0.75, 0};
  add_case("sequence lengths", {gates, small.x(), y, lengths({2, 1}), small.state()});
  add_case("sequence lengths, reverse", {gates, small.x(), y, lengths({2, 1}), small.state()},
           {{"direction", std::string("reverse")}});
  const Sizes empty{2, 0, 3, 2};
  add_case("an empty batch", {empty.gates(), empty.x(), empty.y()});
  for (const DType dtype : {DType::f64, DType::f16}) {
    const Sizes typed{3, 2, 3, 2, 1, false, dtype};
    add_case(std::string(dtype_name(dtype)), {typed.gates(), typed.x(), typed.y()});
  }
}

}  // namespace

SampleList recurrent_samples() {
  SampleList list;
  add_lstm(list);
  add_weight_gradient(list);
  return list;
}

}  // namespace mpc::samples
