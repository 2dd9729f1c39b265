#include "compiler/ir/name_table.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

namespace mpc {

TEST_CASE("names: one that is taken gets the first suffix that is free") {
  NameTable names;
  CHECK(names.claim("sum") == "sum");
  CHECK(names.claim("sum.2") == "sum.2");
  CHECK(names.claim("sum") == "sum.1");
  CHECK(names.claim("sum") == "sum.3");
  CHECK(names.claim("sum.1") == "sum.1.1");
  CHECK(names.claim("") == "");
  CHECK(names.claim("") == ".1");
}

TEST_CASE("names: a copy of a table goes on from where it was, and the table does not") {
  NameTable names;
  CHECK(names.claim("x") == "x");
  NameTable copy = names;
  CHECK(copy.claim("x") == "x.1");
  CHECK(copy.claim("x") == "x.2");
  CHECK(names.claim("x") == "x.1");
}

TEST_CASE("names: thousands stay different while the table grows") {
  NameTable names;
  std::set<std::string> given;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 5'000; ++i) CHECK(given.insert(names.claim("node" + std::to_string(i))).second);
  }
  CHECK(given.contains("node4999.2"));
}

}  // namespace mpc
