#include "nearkin-torch/src/bridge/device.hpp"

#include <cstring>

#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>

namespace nearkin {

void allow_tf32(bool allowed) {
  at::globalContext().setAllowTF32CuBLAS(allowed);
  at::globalContext().setAllowTF32CuDNN(allowed);
}

bool tf32_is_allowed() {
  return at::globalContext().allowTF32CuBLAS() && at::globalContext().allowTF32CuDNN();
}

void time_convolutions(bool timed) {
  at::globalContext().setBenchmarkCuDNN(timed);
}

bool convolutions_are_timed() {
  return at::globalContext().benchmarkCuDNN();
}

Autocast::Autocast(at::DeviceType device)
    : device_(device),
      enabled_before_(at::autocast::is_autocast_enabled(device)),
      kind_before_(at::autocast::get_autocast_dtype(device)),
      cache_before_(at::autocast::is_autocast_cache_enabled()) {
  at::autocast::set_autocast_dtype(device, at::kBFloat16);
  at::autocast::set_autocast_cache_enabled(true);
  at::autocast::set_autocast_enabled(device, true);
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  // A copy made without gradients must not serve a pass with gradients.
  if (at::autocast::decrement_nesting() == 0) {
    at::autocast::clear_cache();
  }
  at::autocast::set_autocast_enabled(device_, enabled_before_);
  at::autocast::set_autocast_dtype(device_, kind_before_);
  at::autocast::set_autocast_cache_enabled(cache_before_);
}

std::unique_ptr<Autocast> autocast_to_bfloat16(bool cuda) {
  return std::make_unique<Autocast>(cuda ? at::kCUDA : at::kCPU);
}

std::unique_ptr<ExactProducts> exact_products() {
  return std::make_unique<ExactProducts>();
}

uint64_t free_cuda_bytes(int32_t device) {
  auto index = static_cast<c10::DeviceIndex>(device);
  return c10::getDeviceAllocator(at::kCUDA)->getMemoryInfo(index).first;
}

at::Tensor* copy_of(const uint8_t* data, rust::Slice<const int64_t> size, int8_t kind,
                    bool pinned) {
  const auto options = at::TensorOptions(static_cast<at::ScalarType>(kind)).pinned_memory(pinned);
  auto copy = at::empty(at::IntArrayRef(size.data(), size.size()), options);
  auto* const to = static_cast<uint8_t*>(copy.mutable_data_ptr());
  constexpr int64_t BYTES_OF_A_THREAD = 1 << 18;
  at::parallel_for(0, static_cast<int64_t>(copy.nbytes()), BYTES_OF_A_THREAD,
                   [&](int64_t begin, int64_t end) {
                     std::memcpy(to + begin, data + begin, static_cast<size_t>(end - begin));
                   });
  return new at::Tensor(std::move(copy));
}

}  // namespace nearkin
