//! Requests to stop, which may come at any moment.
//!
//! Training looks for them at *stop points*: before every step, after a batch was loaded, and before every
//! encoder pass of a batch or micro-batch. A step that is left at a stop point is *abandoned*: nothing of
//! it is kept, and a continued run makes it anew. Several processes agree at every stop point, since the
//! others would wait for one that left.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nearkin_augment::LoadError;
use nearkin_dist::World;
use tch::TchError;

use crate::TrainError;

/// A request to stop, shared by those who make it and the training that it ends.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// Asks to stop because of a signal, given by its number. The first request counts. A signal handler
    /// may call this.
    pub fn request(&self, signal: i32) {
        // A failure means that an earlier request is there.
        let _ = self.0.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The signal of the request, if there was one.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
    }

    /// Whether this process should stop: it was asked itself, and now tells the others, or has heard that
    /// another was.
    pub(crate) fn is_known(&self, world: &dyn World) -> bool {
        match (self.signal(), world.asked_to_stop()) {
            (Some(signal), _) => world.ask_to_stop(signal),
            (None, Some(signal)) => self.request(signal),
            (None, None) => return false,
        }
        true
    }

    /// Whether some process was asked to stop before it came here; all get the same answer.
    pub(crate) fn is_agreed(&self, world: &dyn World) -> Result<bool, TchError> {
        let signal = world.maximum(self.signal().unwrap_or(0).into())?;
        self.request(signal as i32);
        Ok(signal != 0)
    }

    /// Ends the step under way if some process was asked to stop.
    pub(crate) fn stop_point(&self, world: &dyn World) -> Result<(), Unfinished> {
        if self.is_agreed(world)? { Err(Unfinished::Stopped) } else { Ok(()) }
    }
}

/// Why a step has no gradients.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// It was abandoned.
    Stopped,
    Failed(TrainError),
}

impl From<TrainError> for Unfinished {
    fn from(error: TrainError) -> Self {
        Self::Failed(error)
    }
}

impl From<TchError> for Unfinished {
    fn from(error: TchError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<LoadError> for Unfinished {
    fn from(error: LoadError) -> Self {
        Self::Failed(error.into())
    }
}
