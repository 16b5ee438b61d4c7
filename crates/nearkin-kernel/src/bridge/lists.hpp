// Updates of many tensors in one call of libtorch, which makes it a few kernels on a GPU and one pass
// per tensor on the CPU. Lists are pointers to the caller's tensors, those of one place in different
// lists of one shape and kind.
#pragma once

#include <ATen/ATen.h>

#include "nearkin-kernel/src/bridge/batch_norm.hpp"

namespace nearkin {

using Pointers = rust::Slice<const size_t>;

// averages <- averages + weight * (values - averages).
void move_towards(Pointers averages, Pointers values, double weight);

// torch.optim.SGD's step; velocities that begin at 0 are as good as none.
void descend(Pointers parameters, Pointers gradients, Pointers velocities, double learning_rate,
             double weight_decay, double momentum, bool nesterov);

}  // namespace nearkin
