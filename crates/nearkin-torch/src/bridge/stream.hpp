// What a CUDA device is given to do, in order; and a piece of it that it can do again by itself. Only
// graphs need a libtorch with CUDA at build time.
#pragma once

#include <memory>

#include <c10/core/Event.h>

#include "errors.hpp"
#include "rust/cxx.h"

namespace nearkin {

// From now on this thread gives its work to a stream of its own: the default one cannot be recorded.
void leave_default_stream(int32_t device);

// What this thread has given to its stream so far.
class Moment {
 public:
  explicit Moment(int32_t device);
  // Until all of it is done.
  void wait() const;

 private:
  c10::Event event_;
};

std::unique_ptr<Moment> moment(int32_t device);

// Work that was recorded in place of being done. Memory that was taken in between belongs to it.
class Graph {
 public:
  explicit Graph(int32_t device);
  ~Graph();
  // From `begin` to `end` this thread's work is recorded. Nothing may wait for the device.
  void begin() const;
  void end() const;
  // Gives all of it to this thread's stream.
  void replay() const;

 private:
  struct Recorded;
  std::unique_ptr<Recorded> recorded_;
};

bool has_graphs();
std::unique_ptr<Graph> graph(int32_t device);

}  // namespace nearkin
