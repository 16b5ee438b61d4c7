//! What training, as a run or as a benchmark, uses of a machine.

use std::num::NonZeroUsize;

use tch::Device;

/// What one process of a run uses; no result depends on it, but the last bit of a sum on `threads`.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Where tensors live.
    pub device: Device,
    /// Loader threads; if absent, what goes with `threads`: measured, what the run began with, or 1.
    pub workers: Option<usize>,
    /// Threads of libtorch; if absent, what the continued run began with, and for a new one what a
    /// measurement finds best.
    pub threads: Option<usize>,
    /// Processes of the run on this host, which share its cores.
    pub processes_here: NonZeroUsize,
}

/// The CPU, for one process, with the threads that are measured to be best.
impl Default for Machine {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            workers: None,
            threads: None,
            processes_here: NonZeroUsize::MIN,
        }
    }
}
