// Batch norm in training, with the ReLU and the shortcut behind it, in two functions between which
// processes can exchange their moments. Every exception becomes an error of the caller's. Tensors
// come as pointers that stay the caller's, null where there is none; a returned pointer is the
// caller's.
#pragma once

#include <memory>

#include <ATen/ATen.h>

#include "errors.hpp"
#include "rust/cxx.h"

namespace nearkin {

struct Way;

// What both functions know of one pass of one batch norm. The gradient of the input needs what the
// second function learns on the way back and what the first learns after it; it is made in one pass,
// by the first.
class Pass {
 public:
  explicit Pass(c10::intrusive_ptr<Way> way);
  ~Pass();
  // Mean and mean square of each channel of each of `groups` blocks of rows: [2, groups, channels],
  // double.
  at::Tensor* moments(const at::Tensor* x, int64_t groups) const;
  // The input of `moments`, normalised by moments that may be an average over processes. Running
  // statistics move towards the blocks' mean, the variance by the `count` that one block has in all
  // processes. `overwrite` says that the input's memory may take the result when no gradient is
  // recorded.
  at::Tensor* normalise(const at::Tensor* x, const at::Tensor* moments, const at::Tensor* weight,
                        const at::Tensor* bias, const at::Tensor* shortcut, bool relu,
                        const at::Tensor* running_mean, const at::Tensor* running_variance,
                        double count, bool overwrite) const;

 private:
  c10::intrusive_ptr<Way> way_;
};

std::unique_ptr<Pass> begin_pass();

}  // namespace nearkin
