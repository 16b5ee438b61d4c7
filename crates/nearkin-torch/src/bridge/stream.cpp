#include "nearkin-torch/src/bridge/stream.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

#ifdef NEARKIN_CUDA
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#endif

namespace nearkin {
namespace {

c10::Device cuda(int32_t device) {
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
}

}  // namespace

void leave_default_stream(int32_t device) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  guard.exchangeStream(guard.getStreamFromGlobalPool(cuda(device)));
}

Moment::Moment(int32_t device) : event_(c10::DeviceType::CUDA) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  event_.record(guard.getStream(cuda(device)));
}

void Moment::wait() const {
  event_.synchronize();
}

std::unique_ptr<Moment> moment(int32_t device) {
  return std::make_unique<Moment>(device);
}

#ifdef NEARKIN_CUDA
struct Graph::Recorded {
  explicit Recorded(c10::Device device)
      : device(device), graph(std::make_unique<at::cuda::CUDAGraph>()) {}

  // libtorch before 2.12 leaves its allocators recording if a recording fails.
  void forget() const {
    const auto try_to = [](auto&& undo) {
      try {
        undo();
      } catch (const c10::Error&) {
        // It is as it should be: that part was not recording.
      }
    };
    try_to([&] {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device.index(), pool);
      c10::cuda::CUDACachingAllocator::releasePool(device.index(), pool);
    });
    try_to([&] {
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
      at::getHostAllocator(at::kCUDA)->release_pool(pool);
    });
  }

  c10::Device device;
  c10::MempoolId_t pool = at::cuda::graph_pool_handle();
  std::unique_ptr<at::cuda::CUDAGraph> graph;
};

bool has_graphs() {
  return true;
}

Graph::Graph(int32_t device) {
  const c10::DeviceGuard guard(cuda(device));
  recorded_ = std::make_unique<Recorded>(cuda(device));
}

void Graph::begin() const {
  const c10::DeviceGuard guard(recorded_->device);
  // What is cached outside cannot be given back while the graph takes its own memory.
  c10::cuda::CUDACachingAllocator::emptyCache();
  try {
    recorded_->graph->capture_begin(recorded_->pool);
  } catch (...) {
    recorded_->forget();
    throw;
  }
}

void Graph::end() const {
  const c10::DeviceGuard guard(recorded_->device);
  try {
    recorded_->graph->capture_end();
  } catch (...) {
    recorded_->forget();
    throw;
  }
}

void Graph::replay() const {
  recorded_->graph->replay();
}
#else
struct Graph::Recorded {};

bool has_graphs() {
  return false;
}

Graph::Graph(int32_t) {
  TORCH_CHECK(false, "this build has no CUDA graphs");
}

void Graph::begin() const {}

void Graph::end() const {}

void Graph::replay() const {}
#endif

Graph::~Graph() = default;

std::unique_ptr<Graph> graph(int32_t device) {
  return std::make_unique<Graph>(device);
}

}  // namespace nearkin
