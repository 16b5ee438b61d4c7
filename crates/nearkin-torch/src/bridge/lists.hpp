// Updates of many tensors in one call of libtorch, which makes it a few kernels on a GPU and one pass
// per tensor on the CPU. Lists are pointers to the caller's tensors, those of one place in different
// lists of one shape and kind. What a tensor remembers lies in memory as the tensor.
//
// A learning rate is a number, or a tensor without dimensions where `held` is given; then nothing
// changes where `unless` is 1 (a float without dimensions; 0 as a rule), whatever the gradients are.
#pragma once

#include <ATen/ATen.h>

#include "nearkin-torch/src/bridge/batch_norm.hpp"

namespace nearkin {

using Pointers = rust::Slice<const size_t>;

// averages <- averages + weight * (values - averages).
void move_towards(Pointers averages, Pointers values, double weight);
void move_towards_by(Pointers averages, Pointers values, const at::Tensor* weight);

// torch.optim.SGD's step; velocities that begin at 0 are as good as none.
void descend(Pointers parameters, Pointers gradients, Pointers velocities, double learning_rate,
             const at::Tensor* held, const at::Tensor* unless, double weight_decay,
             double momentum, bool nesterov);

// torch.optim.AdamW's step; `counts` are floats without dimensions.
void adapt(Pointers parameters, Pointers gradients, Pointers means, Pointers mean_squares,
           Pointers counts, double learning_rate, const at::Tensor* held, const at::Tensor* unless,
           double weight_decay, double beta_1, double beta_2, double epsilon);

// LARS: gradients, with their weight decay, get `trust` times the norm of their parameter (as they are
// if `trust` is 0 or a norm is). `inside` says that velocities are of learning rate and gradient.
void descend_by_layer(Pointers parameters, Pointers gradients, Pointers velocities,
                      double learning_rate, const at::Tensor* held, const at::Tensor* unless,
                      double weight_decay, double momentum, double trust, bool inside);

}  // namespace nearkin
