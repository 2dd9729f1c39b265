#pragma once

#include <string>
#include <string_view>

#include "compiler/base/json.h"
#include "compiler/base/literal.h"
#include "compiler/plan/plan.h"

// What print.cpp and parse.cpp share: the JSON forms of numbers, strings and literals.

namespace mpc::plan_text {

inline constexpr std::string_view kFormat = "mpc-plan";

/// A JSON number that reads back as the same double and never looks like an integer; "inf", "-inf" and "nan" as
/// strings.
std::string number_json(double value);
/// The inverse, for a view of such a number (an integer is a number too). @throws the view's Error.
double parse_number_json(const JsonView& view);

/// What Instruction::index counts depends on the action: it is written under the name of that table.
std::string_view index_key(Action action);

/// `text` as a JSON string. Bytes above 0x7f are copied.
std::string quoted(std::string_view text);

/// A literal as an object: numbers when there are few and they read back exactly, base64 otherwise.
std::string literal_json(const Literal& literal);
/// The inverse. @throws the view's Error when the content does not fit the shape.
Literal parse_literal_json(const JsonView& view);

/// A shape as [2,3], and back. @throws the view's Error for what checked_shape refuses.
std::string shape_json(const Shape& shape);
Shape parse_shape_json(const JsonView& view, DType dtype);
DType parse_dtype_json(const JsonView& view);

}  // namespace mpc::plan_text
