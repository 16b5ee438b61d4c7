//! Where the time of a step goes.
//!
//! The parts of a step are apart in the code, so each says when it ends; the time since the end of the
//! part before is its. A run does not ask, and then an end costs one comparison. A benchmark asks, and
//! then a GPU has to finish what it was given at every end, which a run never waits for; but where
//! the host does not wait for the step either, its clock shows how long it takes to start the parts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tch::Device;

use crate::meter::wait_for;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the loader.
    Load,
    /// Views to the device, and made there where the recipe says so.
    Transfer,
    /// The online encoder, forward.
    Encode,
    /// The momentum encoder, forward.
    Teacher,
    /// The method's terms, their loss and its gradient in the embeddings.
    Loss,
    /// The gradient in the weights, and its sum over the processes.
    Backward,
    /// The optimiser.
    Step,
    /// The momentum encoder's weights.
    Average,
    /// Keys into the queue.
    Queue,
    /// Labels, copies of running statistics, checks, exchanges, records.
    Other,
    /// Waiting for the step before, where a step is read late.
    Late,
}

impl Phase {
    /// In the order of a step.
    pub const ALL: [Self; 11] = [
        Self::Load,
        Self::Transfer,
        Self::Encode,
        Self::Teacher,
        Self::Loss,
        Self::Backward,
        Self::Step,
        Self::Average,
        Self::Queue,
        Self::Other,
        Self::Late,
    ];

    /// What a table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "wait for data",
            Self::Transfer => "to the device",
            Self::Encode => "encode",
            Self::Teacher => "teacher",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Step => "optimiser",
            Self::Average => "teacher's average",
            Self::Queue => "queue",
            Self::Other => "other",
            Self::Late => "wait for the device",
        }
    }
}

/// The clock of the phases; as a rule it stands. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases(Option<Arc<Running>>);

#[derive(Debug)]
struct Running {
    /// That has to finish at every end.
    device: Option<Device>,
    shown: Mutex<Shown>,
}

/// What a running clock shows.
#[derive(Debug)]
struct Shown {
    ended: Instant,
    seconds: [f64; Phase::ALL.len()],
}

impl Running {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phases {
    /// Begins to count, from now; at every end the device has to be finished, unless steps are read
    /// `late`.
    pub(crate) fn started(device: Device, late: bool) -> Self {
        wait_for(device);
        let device = (!late).then_some(device);
        let shown = Mutex::new(Shown { ended: Instant::now(), seconds: Default::default() });
        Self(Some(Arc::new(Running { device, shown })))
    }

    /// The time since the last end was this phase's.
    pub(crate) fn end(&self, phase: Phase) {
        let Some(running) = &self.0 else { return };
        running.device.iter().copied().for_each(wait_for);
        let mut shown = running.shown();
        let now = Instant::now();
        let seconds = now.duration_since(shown.ended).as_secs_f64();
        shown.seconds[phase as usize] += seconds;
        shown.ended = now;
    }

    /// Seconds of each phase so far; none if nobody asked, and none of a wait that no step has.
    pub(crate) fn seconds(&self) -> Vec<(Phase, f64)> {
        let Some(running) = &self.0 else { return Vec::new() };
        let all = Phase::ALL.into_iter().zip(running.shown().seconds);
        all.filter(|&(phase, seconds)| phase != Phase::Late || seconds > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_phase_has_the_time_since_the_end_before() {
        let phases = Phases::started(Device::Cpu, false);
        let begun = Instant::now();
        for phase in [Phase::Load, Phase::Queue, Phase::Load] {
            std::thread::sleep(Duration::from_millis(20));
            phases.end(phase);
        }
        let whole = begun.elapsed().as_secs_f64();
        let seconds = phases.seconds();
        let of = |phase: Phase| seconds.iter().find(|entry| entry.0 == phase).unwrap().1;
        assert!(of(Phase::Load) >= 0.04 && of(Phase::Queue) >= 0.02 && of(Phase::Loss) == 0.0);
        let sum: f64 = seconds.iter().map(|entry| entry.1).sum();
        assert!((sum - whole).abs() < 0.01, "{sum} of {whole}");
    }

    #[test]
    fn phases_stand_in_their_order_and_cost_nothing_unasked() {
        assert!(Phase::ALL.into_iter().enumerate().all(|(place, phase)| phase as usize == place));
        let phases = Phases::default();
        phases.end(Phase::Load);
        assert!(phases.seconds().is_empty());
    }
}
