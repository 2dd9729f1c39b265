#include "tests/ops/sample.h"

// Samples of LSTM, GRU and their gradients.

namespace mpc::samples {
namespace {

using Inputs = std::vector<std::optional<Operand>>;

struct Sizes {
  int64_t steps, batch, inputs, hidden;
  int64_t directions = 1;
  bool is_batch_first = false;
  DType dtype = DType::f32;
  int64_t gate_count = 4;

  Operand of(Shape shape) const { return {.dtype = dtype, .shape = shape, .numbers = {}}; }
  Operand x() const { return of(is_batch_first ? Shape{batch, steps, inputs} : Shape{steps, batch, inputs}); }
  Operand w() const { return of({directions, gate_count * hidden, inputs}); }
  Operand r() const { return of({directions, gate_count * hidden, hidden}); }
  Operand bias() const { return of({directions, 2 * gate_count * hidden}); }
  Operand state() const {
    return of(is_batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden});
  }
  Operand peepholes() const { return of({directions, 3 * hidden}); }
  Operand y() const {
    return of(is_batch_first ? Shape{batch, steps, directions, hidden} : Shape{steps, directions, batch, hidden});
  }
  Operand reset() const { return of({steps, directions, batch, hidden}); }
  Operand gates() const { return of({steps, directions, batch, gate_count * hidden}); }
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

Sizes gru(Sizes sizes) {
  sizes.gate_count = 3;
  return sizes;
}

/// One case for GRU and GRUInputGrad, with the reset before the product with R and after it. `outputs`: Y and Y_h as
/// asked for.
void add_both(SampleList& list, const std::string& name, const Sizes& sizes, const Inputs& inputs,
              Attributes attributes, const std::vector<bool>& outputs) {
  for (const int64_t is_linear_before : {0, 1}) {
    const std::string full_name = name + (is_linear_before == 0 ? "" : ", linear before reset");
    attributes.set("linear_before_reset", is_linear_before);
    list.push_back(
        {.name = full_name, .op = OpKind::GRU, .inputs = inputs, .attributes = attributes, .outputs = outputs});
    Inputs with_gradients = inputs;
    with_gradients.resize(6);
    for (size_t i = 0; i < outputs.size(); ++i) {
      with_gradients.push_back(outputs[i] ? std::optional(i == 0 ? sizes.y() : sizes.state()) : std::nullopt);
    }
    list.push_back({.name = full_name,
                    .op = OpKind::GRUInputGrad,
                    .inputs = with_gradients,
                    .attributes = attributes,
                    .outputs = std::vector<bool>(5, true)});
  }
}

void add_gru(SampleList& list) {
  const std::vector<bool> all = {true, true};
  const auto attributes = [](const char* direction, int64_t layout = 0) {
    return Attributes{{"direction", std::string(direction)}, {"layout", layout}};
  };
  const Sizes one = gru({4, 2, 3, 2});
  add_both(list, "plain", one, {one.x(), one.w(), one.r()}, {}, all);
  add_both(list, "bias", one, {one.x(), one.w(), one.r(), one.bias()}, {{"hidden_size", int64_t{2}}}, all);
  add_both(list, "Y only", one, {one.x(), one.w(), one.r(), one.bias()}, {}, {true});
  add_both(list, "Y_h only", one, {one.x(), one.w(), one.r(), one.bias()}, {}, {false, true});
  const Inputs with_state = {one.x(), one.w(), one.r(), one.bias(), {}, one.state()};
  add_both(list, "initial state", one, with_state, {}, all);
  add_both(list, "reverse", one, with_state, attributes("reverse"), all);
  add_both(list, "sequence lengths", one, {one.x(), one.w(), one.r(), one.bias(), lengths({4, 2}), one.state()}, {},
           all);
  add_both(list, "sequence lengths, reverse", one,
           {one.x(), one.w(), one.r(), one.bias(), lengths({0, 3}), one.state()}, attributes("reverse"), all);

  const Sizes two = gru({3, 2, 2, 3, 2});
  add_both(list, "bidirectional", two, {two.x(), two.w(), two.r(), two.bias(), {}, two.state()},
           attributes("bidirectional"), all);
  add_both(list, "bidirectional, sequence lengths", two,
           {two.x(), two.w(), two.r(), two.bias(), lengths({1, 3}), two.state()}, attributes("bidirectional"), all);
  const Sizes batch_first = gru({3, 2, 2, 3, 2, true});
  const Inputs operands = {batch_first.x(),    batch_first.w(), batch_first.r(), batch_first.bias(), {},
                           batch_first.state()};
  add_both(list, "bidirectional, batch first", batch_first, operands, attributes("bidirectional", 1), all);
  Inputs with_lengths = operands;
  with_lengths[4] = lengths({3, 2});
  add_both(list, "bidirectional, batch first, sequence lengths", batch_first, with_lengths,
           attributes("bidirectional", 1), all);
  const Sizes odd = gru({5, 3, 7, 5});
  add_both(list, "odd sizes", odd, {odd.x(), odd.w(), odd.r(), odd.bias()}, {}, all);
  const Sizes no_steps = gru({0, 2, 3, 2});
  add_both(list, "no steps", no_steps, {no_steps.x(), no_steps.w(), no_steps.r(), {}, {}, no_steps.state()}, {}, all);
  const Sizes empty = gru({2, 0, 3, 2});
  add_both(list, "an empty batch", empty, {empty.x(), empty.w(), empty.r(), empty.bias()}, {}, all);
  for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
    const Sizes typed = gru({3, 2, 3, 2, 1, false, dtype});
    add_both(list, std::string(dtype_name(dtype)), typed, {typed.x(), typed.w(), typed.r(), typed.bias()}, {}, all);
  }
}

void add_gru_weight_gradient(SampleList& list) {
  const auto add_case = [&](const std::string& name, const Inputs& inputs, Attributes attributes = {}) {
    for (const int64_t is_linear_before : {0, 1}) {
      attributes.set("linear_before_reset", is_linear_before);
      list.push_back({.name = name + (is_linear_before == 0 ? "" : ", linear before reset"),
                      .op = OpKind::GRUWeightGrad,
                      .inputs = inputs,
                      .attributes = attributes,
                      .outputs = {true, true, true}});
    }
  };
  const Sizes one = gru({4, 2, 3, 2});
  add_case("plain", {one.gates(), one.x(), one.y(), one.reset()});
  add_case("initial state", {one.gates(), one.x(), one.y(), one.reset(), {}, one.state()});
  add_case("reverse", {one.gates(), one.x(), one.y(), one.reset(), {}, one.state()},
           {{"direction", std::string("reverse")}});
  const Sizes two = gru({3, 2, 2, 3, 2, true});
  add_case("bidirectional, batch first", {two.gates(), two.x(), two.y(), two.reset(), {}, two.state()},
           {{"direction", std::string("bidirectional")}, {"layout", int64_t{1}}});
  // Beyond a sequence's end all but X is zero, as GRUInputGrad and GRU make it.
  const Sizes small = gru({2, 2, 1, 1});
  Operand gates = small.gates();
  gates.numbers = {0.1, -0.2, 0.3, 0.4, 0.5, 0.6, -0.7, 0.8, 0.9, 0, 0, 0};
  Operand y = small.y();
  y.numbers = {0.5, -0.25, 0.75, 0};
  Operand reset = small.reset();
  reset.numbers = {0.25, 0.5, 0.875, 0};
  add_case("sequence lengths", {gates, small.x(), y, reset, lengths({2, 1}), small.state()});
  add_case("sequence lengths, reverse", {gates, small.x(), y, reset, lengths({2, 1}), small.state()},
           {{"direction", std::string("reverse")}});
  const Sizes empty = gru({2, 0, 3, 2});
  add_case("an empty batch", {empty.gates(), empty.x(), empty.y(), empty.reset()});
  for (const DType dtype : {DType::f64, DType::f16}) {
    const Sizes typed = gru({3, 2, 3, 2, 1, false, dtype});
    add_case(std::string(dtype_name(dtype)), {typed.gates(), typed.x(), typed.y(), typed.reset()});
  }
}

}  // namespace

SampleList recurrent_samples() {
  SampleList list;
  add_lstm(list);
  add_weight_gradient(list);
  add_gru(list);
  add_gru_weight_gradient(list);
  return list;
}

}  // namespace mpc::samples
