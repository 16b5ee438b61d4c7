//! What changes from step to step: the learning rate and the momentum of the momentum encoder.
//! Both are functions of the step, so that nothing has to be saved.

use std::f64::consts::PI;

use nearkin_recipe::{Decay, MomentumSchedule, Schedule, WarmUp};

/// The learning rate of every step.
#[derive(Clone, Copy, Debug)]
pub struct LearningRate {
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
    schedule: Schedule,
}

impl LearningRate {
    /// Linear warm-up from 0 to `peak` over `warmup_steps`, then the decay to the end, both in the
    /// forms of `schedule`.
    pub fn new(peak: f64, warmup_steps: u64, total_steps: u64, schedule: Schedule) -> Self {
        Self { peak, warmup_steps, total_steps, schedule }
    }

    /// The learning rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let at_peak = match self.schedule.warmup {
                WarmUp::PeakAtLastStep => self.warmup_steps - 1,
                WarmUp::PeakAfterLastStep => self.warmup_steps,
            };
            return if at_peak > 0 { self.peak * step as f64 / at_peak as f64 } else { self.peak };
        }
        match self.schedule.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let length = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let share = (step - self.warmup_steps) as f64 / length;
                self.peak * 0.5 * (1.0 + (PI * share).cos())
            }
        }
    }
}

/// The momentum of the momentum encoder at every update.
#[derive(Clone, Copy, Debug)]
pub struct Momentum {
    start: f64,
    total_steps: u64,
    schedule: MomentumSchedule,
}

impl Momentum {
    /// Starts at `start`; with the cosine schedule it reaches 1 at the last step.
    pub fn new(start: f64, total_steps: u64, schedule: MomentumSchedule) -> Self {
        Self { start, total_steps, schedule }
    }

    /// The momentum of the update after a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        match self.schedule {
            MomentumSchedule::Constant => self.start,
            MomentumSchedule::Cosine => {
                let last = self.total_steps.saturating_sub(1).max(1) as f64;
                let fall = 0.5 * (1.0 + (PI * step as f64 / last).cos());
                1.0 - (1.0 - self.start) * fall
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
    }

    fn schedule(warmup: WarmUp, decay: Decay) -> Schedule {
        Schedule { warmup, decay, ..Schedule::default() }
    }

    /// The rates of all 20 steps, and of the end.
    fn cosine(warmup_steps: u64, warmup: WarmUp) -> Vec<f64> {
        let rate = LearningRate::new(1.0, warmup_steps, 20, schedule(warmup, Decay::Cosine));
        (0..=20).map(|step| rate.at(step)).collect()
    }

    /// After a warm-up of 5 steps, from the step after the peak.
    const FALL: [f64; 15] = [
        0.9890738003669028,
        0.9567727288213004,
        0.9045084971874737,
        0.8345653031794291,
        0.75,
        0.6545084971874737,
        0.5522642316338268,
        0.44773576836617335,
        0.34549150281252633,
        0.2500000000000001,
        0.16543469682057105,
        0.09549150281252633,
        0.04322727117869951,
        0.010926199633097156,
        0.0,
    ];

    #[test]
    fn the_warm_up_of_the_sce_authors_reaches_the_peak_at_its_last_step() {
        let expected = [&[0.0, 0.25, 0.5, 0.75, 1.0, 1.0], FALL.as_slice()].concat();
        close(&cosine(5, WarmUp::PeakAtLastStep), &expected);
    }

    #[test]
    fn the_warm_up_of_simclr_reaches_the_peak_at_the_step_after_it() {
        let expected = [&[0.0, 0.2, 0.4, 0.6, 0.8, 1.0], FALL.as_slice()].concat();
        close(&cosine(5, WarmUp::PeakAfterLastStep), &expected);
    }

    #[test]
    fn without_warm_up_the_cosine_starts_at_the_peak() {
        let expected = [
            1.0,
            0.9938441702975689,
            0.9755282581475768,
            0.9455032620941839,
            0.9045084971874737,
            0.8535533905932737,
            0.7938926261462366,
            0.7269952498697734,
            0.6545084971874737,
            0.5782172325201155,
            0.5,
            0.4217827674798847,
            0.34549150281252633,
            0.2730047501302266,
            0.2061073738537635,
            0.14644660940672627,
            0.09549150281252633,
            0.054496737905816106,
            0.024471741852423234,
            0.00615582970243117,
            0.0,
        ];
        for warmup in [WarmUp::PeakAtLastStep, WarmUp::PeakAfterLastStep] {
            close(&cosine(0, warmup), &expected);
        }
    }

    #[test]
    fn a_warm_up_of_one_step_and_a_constant_rate_are_as_they_say() {
        let first = |warmup| {
            let rate = LearningRate::new(0.3, 1, 20, schedule(warmup, Decay::Cosine));
            [rate.at(0), rate.at(1)]
        };
        assert_eq!(first(WarmUp::PeakAtLastStep), [0.3, 0.3]);
        assert_eq!(first(WarmUp::PeakAfterLastStep), [0.0, 0.3]);
        let constant = schedule(WarmUp::default(), Decay::Constant);
        assert_eq!(LearningRate::new(0.3, 0, 20, constant).at(19), 0.3);
    }

    #[test]
    fn momentum_rises_to_one_along_a_cosine() {
        let momentum = Momentum::new(0.99, 20, MomentumSchedule::Cosine);
        close(
            &[0, 1, 2, 3, 10, 18, 19].map(|step| momentum.at(step)),
            &[
                0.99,
                0.9900681934829864,
                0.9902709137914968,
                0.9906026312439675,
                0.9954128967273617,
                0.9999318065170136,
                1.0,
            ],
        );
        assert_eq!(Momentum::new(0.99, 20, MomentumSchedule::Constant).at(19), 0.99);
        assert!(Momentum::new(0.99, 1, MomentumSchedule::Cosine).at(0).is_finite());
    }
}
