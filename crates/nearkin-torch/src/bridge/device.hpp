// Switches of libtorch that tch does not reach, as functions that cxx can call. All of them are in
// libtorch's CPU part, so a program that was linked without CUDA sets them for a CUDA that is loaded
// at run time. Every exception becomes an error of the caller's.
#pragma once

#include <memory>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

#include "errors.hpp"
#include "rust/cxx.h"

namespace nearkin {

// Whether CUDA's matrix products and cuDNN's convolutions may round single precision to TF32.
void allow_tf32(bool allowed);
bool tf32_is_allowed();

// Whether cuDNN times its algorithms for every new shape and keeps the fastest.
void time_convolutions(bool timed);
bool convolutions_are_timed();

// While it lives, this thread computes matrix products and convolutions of one kind of device in
// bfloat16. Weights are converted once; the last guard to go forgets the copies.
class Autocast {
 public:
  explicit Autocast(at::DeviceType device);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  at::DeviceType device_;
  bool enabled_before_;
  at::ScalarType kind_before_;
  bool cache_before_;
};

std::unique_ptr<Autocast> autocast_to_bfloat16(bool cuda);

// While it lives, this thread's matrix products do not use TF32.
using ExactProducts = at::NoTF32Guard;
std::unique_ptr<ExactProducts> exact_products();

// Bytes of a CUDA device that nobody uses.
uint64_t free_cuda_bytes(int32_t device);

// The numbers that begin at `data`, of torch's kind and of this size, as a tensor of the CPU with memory
// of its own, pinned if asked. The tensor is the caller's.
at::Tensor* copy_of(const uint8_t* data, rust::Slice<const int64_t> size, int8_t kind, bool pinned);

}  // namespace nearkin
