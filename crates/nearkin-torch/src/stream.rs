//! The order of a device's work, and work that it can repeat by itself.
//!
//! A small network keeps a GPU less busy than it keeps the host, which starts a thousand kernels for
//! each step and then waits for a number. So the host can go on with the next step while it waits for a
//! [`Moment`] of the last one, and a step that is the same every time can be recorded as a [`Graph`]
//! and started at once.

use tch::{Device, TchError};

use crate::bridge::ffi;
use crate::failed;

/// Gives what this thread does on a CUDA device from now on to a stream of its own; graphs cannot be
/// recorded on the default one. On a CPU it does nothing.
pub fn leave_default_stream(device: Device) -> Result<(), TchError> {
    match device {
        Device::Cuda(index) => ffi::leave_default_stream(index as i32).map_err(failed),
        _ => Ok(()),
    }
}

/// Where this thread's work on a device stands. A CPU has done what it was given.
pub struct Moment(Option<cxx::UniquePtr<ffi::Moment>>);

impl Moment {
    /// After all that was given to the device so far.
    pub fn now(device: Device) -> Result<Self, TchError> {
        match device {
            Device::Cuda(index) => {
                let moment = ffi::moment(index as i32).map_err(failed)?;
                Ok(Self(Some(moment)))
            }
            _ => Ok(Self(None)),
        }
    }

    /// Until the device has come so far.
    pub fn wait(&self) -> Result<(), TchError> {
        match &self.0 {
            Some(moment) => moment.wait().map_err(failed),
            None => Ok(()),
        }
    }
}

/// Work of a CUDA device that was recorded once and can be done again: the same kernels on the same
/// memory, so its inputs have to be copied to where they were.
pub struct Graph(cxx::UniquePtr<ffi::Graph>);

impl Graph {
    /// Whether work on this device can be recorded: it is CUDA's, and nearkin was built with CUDA.
    pub fn is_possible(device: Device) -> bool {
        device.is_cuda() && ffi::has_graphs()
    }

    /// Records what `work` does on the device, which does not do it yet. What `work` gives has its
    /// values after each [`replay`](Self::replay).
    ///
    /// Fails if `work` does, if it waits for the device, or on the [default
    /// stream](leave_default_stream); then nothing was recorded.
    pub fn record<T>(
        device: Device,
        work: impl FnOnce() -> Result<T, TchError>,
    ) -> Result<(Self, T), TchError> {
        let attempt = |result: Result<(), cxx::Exception>| result.map_err(failed);
        let Device::Cuda(index) = device else {
            return Err(TchError::Torch(format!("there are no graphs on {device:?}")));
        };
        let graph = ffi::graph(index as i32).map_err(failed)?;
        attempt(graph.begin())?;
        let done = work();
        // A recording that failed has to be ended as well; why it failed is what `work` says.
        let ended = attempt(graph.end());
        let done = done?;
        ended?;
        Ok((Self(graph), done))
    }

    /// Gives the device the recorded work.
    pub fn replay(&self) -> Result<(), TchError> {
        self.0.replay().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_always_done_and_repeats_nothing() {
        leave_default_stream(Device::Cpu).unwrap();
        Moment::now(Device::Cpu).unwrap().wait().unwrap();
        assert!(!Graph::is_possible(Device::Cpu));
        let mut done = false;
        let attempt = Graph::record(Device::Cpu, || {
            done = true;
            Ok(())
        });
        assert!(attempt.is_err() && !done, "nothing runs that cannot be recorded");
    }
}
