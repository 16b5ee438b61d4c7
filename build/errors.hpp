// How exceptions of C++ become errors of Rust, for every bridge to libtorch.
#pragma once

#include <exception>

#include <c10/util/Exception.h>

namespace rust::behavior {
// Messages without the stack of C++ frames that torch adds to what().
template <typename Try, typename Fail>
static void trycatch(Try&& func, Fail&& fail) noexcept try {
  func();
} catch (const c10::Error& error) {
  fail(error.what_without_backtrace());
} catch (const std::exception& error) {
  fail(error.what());
}
}  // namespace rust::behavior
