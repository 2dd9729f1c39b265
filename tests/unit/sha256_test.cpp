#include "compiler/base/sha256.h"

#include <doctest/doctest.h>

#include "compiler/base/file.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::bytes_of;

// FIPS 180-4 examples and the NIST long message.
TEST_CASE("sha256: the known answers of the standard") {
  CHECK(sha256_text({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_text(bytes_of("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_text(bytes_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_text(bytes_of(std::string(1000000, 'a'))) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256: any way to cut a message gives the same digest") {
  std::string text;
  for (int i = 0; i < 200; ++i) text += static_cast<char>('a' + i % 26);
  const auto bytes = bytes_of(text);
  Sha256 hash;
  for (size_t length = 0; length <= bytes.size(); ++length) {  // every length around the 55, 56, 63, 64 byte borders
    const auto message = std::span(bytes).first(length);
    hash.update(message);
    const auto whole = hash.finish();
    for (size_t cut : {length / 3, length / 2, length - length / 7}) {
      hash.update(message.first(cut));
      hash.update(message.subspan(cut));
      REQUIRE(hash.finish() == whole);
    }
  }
}

TEST_CASE("sha256: a file of several parts") {
  const test::TemporaryFolder folder;
  const std::string text(3000001, 'q');
  write_file_atomic(folder / "a", text);
  CHECK(sha256_of_file(folder / "a") == sha256_text(bytes_of(text)));
}

}  // namespace
}  // namespace mpc
