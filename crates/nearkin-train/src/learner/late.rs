//! Steps for which the host does not wait.
//!
//! As a rule a step ends with the host reading its loss and the norms of its gradients, and only then
//! deciding whether anything changes: a GPU is idle from the read to the next step's first kernel. Here
//! the device decides by itself, in every update, and the host reads what it decided while the next step
//! is under way. Such a step asks the host for nothing, so a GPU can also record it once and repeat it:
//! what differs from step to step (views, learning rate, place in the queue) is in memory that stays.
//!
//! A step whose measures are written down is still read at once. All three forms compute the same, but for
//! the last digits of single precision.

use nearkin_model::Shuffle;
use nearkin_objective::Labels;
use nearkin_recipe::{Recipe, StepForm};
use nearkin_torch::{Graph, Moment, Rate, leave_default_stream};
use tch::{Device, Kind, TchError, Tensor};

use super::encode::{Drawn, Prepared};
use super::{Learned, Learner, Part};
use crate::guard::sum_of_norms;
use crate::phases::Phase;

/// Steps that were started kernel by kernel, since a number of the method last moved, before one is
/// recorded: by then cuDNN has chosen its algorithms, and every gradient has its memory.
const BEFORE_RECORDING: u32 = 3;

/// What a run needs to go on without the host.
pub(crate) struct Late {
    /// What the host tells the device before a step.
    learning_rate: Tensor,
    /// `1 - momentum` of the momentum encoder.
    weight: Tensor,
    /// Where the next key goes, if it is known here better than in the queue.
    cursor: Tensor,
    cursor_leads: bool,
    recording: Recording,
}

/// How far the recording is.
enum Recording {
    /// There will be none.
    Never,
    /// So many steps were started one by one.
    After(u32),
    /// The next step can be recorded with this memory, or repeated if it was.
    Ready { held: Prepared, recorded: Option<Recorded> },
}

struct Recorded {
    graph: Graph,
    report: Tensor,
}

/// A step that the device may still be working on.
pub(crate) struct Started {
    /// Loss and sum of the gradients' norms, on their way to the host.
    report: Tensor,
    arrived: Moment,
}

impl Started {
    /// Waits for the step; its loss, and whether it changed anything, because all was finite.
    pub(crate) fn read(self) -> Result<(f64, bool), TchError> {
        self.arrived.wait()?;
        let numbers = Vec::<f64>::try_from(self.report)?;
        Ok((numbers[0], numbers.iter().all(|number| number.is_finite())))
    }
}

/// What a step leaves behind on the device.
struct Launched {
    /// Loss and sum of the gradients' norms, double precision.
    report: Tensor,
    /// Whether a later step computes the same with the same inputs.
    repeats: bool,
}

/// Why a recipe's wish for late steps is not fulfilled, if it is not.
pub(crate) fn obstacle(recipe: &Recipe, processes: usize) -> Option<&'static str> {
    let training = &recipe.training;
    match () {
        () if processes > 1 => Some("several processes agree on every step"),
        () if training.accumulate_batches.get() > 1 => Some("batches are accumulated"),
        () if training.micro_batch_size.is_some() => Some("batches are divided"),
        () if training.record_every_steps.get() == 1 => {
            Some("the measures of every step are written down")
        }
        () => None,
    }
}

impl Late {
    /// If the recipe asks for it and nothing stands against it. Where steps can be recorded, this
    /// thread's work goes to a stream of its own from now on.
    pub(crate) fn new(
        recipe: &Recipe,
        processes: usize,
        device: Device,
    ) -> Result<Option<Self>, TchError> {
        let training = &recipe.training;
        if training.step == StepForm::WaitedFor || obstacle(recipe, processes).is_some() {
            return Ok(None);
        }
        let records = training.step == StepForm::CudaGraph && Graph::is_possible(device);
        if records {
            leave_default_stream(device)?;
        }
        // The kind in which libtorch's kernels for CUDA read a learning rate.
        let kind = if device.is_cuda() { Kind::Float } else { Kind::Double };
        let number = |kind| Tensor::f_zeros([0; 0], (kind, device));
        Ok(Some(Self {
            learning_rate: number(kind)?,
            weight: number(kind)?,
            cursor: number(Kind::Int64)?,
            cursor_leads: false,
            recording: if records { Recording::After(0) } else { Recording::Never },
        }))
    }
}

#[cfg(test)]
impl Late {
    /// As if this device could.
    pub(crate) fn begin_recording(&mut self) {
        self.recording = Recording::After(0);
    }
}

impl Learner {
    /// Whether the host need not wait for the next step.
    pub(crate) fn reads_next_late(&self) -> bool {
        self.late.is_some() && !self.measures_next()
    }

    /// Makes the host know where the next key goes, if the device knew it better.
    pub(crate) fn settle_cursor(&mut self) -> Result<(), TchError> {
        if let Some(late) = &mut self.late
            && std::mem::take(&mut late.cursor_leads)
            && let Some(queue) = &mut self.queue
        {
            queue.continue_at(late.cursor.f_int64_value(&[])?);
        }
        Ok(())
    }

    /// Starts a step of one batch, and gives what can be read of it later; with a warning where it is not
    /// started as it was asked.
    pub(super) fn start<E: From<TchError>>(
        &mut self,
        late: &mut Late,
        prepared: &Prepared,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<(Started, Option<String>), E> {
        let _ = late.learning_rate.f_fill_(self.next_learning_rate())?;
        let _ = late.weight.f_fill_(1.0 - self.next_momentum().unwrap_or(1.0))?;
        if let (false, Some(queue)) = (late.cursor_leads, &self.queue) {
            let _ = late.cursor.f_fill_(queue.next())?;
            late.cursor_leads = true;
        }
        self.phases.end(Phase::Other);
        let (report, warning) = self.launch(late, prepared, stop_point)?;
        self.step += 1;
        let report = report.f_to_device_(Device::Cpu, Kind::Double, true, false)?;
        Ok((Started { report, arrived: Moment::now(self.device)? }, warning))
    }

    /// Gives the device a whole step to do, kernel by kernel or as one graph; with a warning where it
    /// cannot be one.
    fn launch<E: From<TchError>>(
        &mut self,
        late: &mut Late,
        prepared: &Prepared,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<(Tensor, Option<String>), E> {
        let recording = std::mem::replace(&mut late.recording, Recording::Never);
        let (held, recorded) = match recording {
            Recording::Never => {
                return Ok((self.whole_step(late, prepared, stop_point)?.report, None));
            }
            Recording::After(steps) => {
                // The last one before the recording reads the memory that the recording will read: no
                // algorithm is left to choose then.
                let held = match steps + 1 {
                    BEFORE_RECORDING => Some(prepared.in_memory_that_stays()?),
                    _ => None,
                };
                let inputs = held.as_ref().unwrap_or(prepared);
                let launched = self.whole_step(late, inputs, stop_point)?;
                late.recording = match held {
                    _ if !launched.repeats => Recording::After(0),
                    Some(held) => Recording::Ready { held, recorded: None },
                    None => Recording::After(steps + 1),
                };
                return Ok((launched.report, None));
            }
            Recording::Ready { held, recorded } => (held, recorded),
        };
        held.take_over(prepared)?;
        let recorded = match recorded {
            Some(recorded) => recorded,
            None => match self.record(late, &held) {
                Ok(recorded) => recorded,
                Err(error) => {
                    let warning = format!(
                        "warning: the step cannot be recorded as a CUDA graph, and is started kernel by \
                         kernel: {error}"
                    );
                    let report = self.whole_step(late, &held, stop_point)?.report;
                    return Ok((report, Some(warning)));
                }
            },
        };
        recorded.graph.replay()?;
        let report = recorded.report.shallow_clone();
        late.recording = Recording::Ready { held, recorded: Some(recorded) };
        Ok((report, None))
    }

    /// Records a whole step, which therefore has no stop points.
    fn record(&mut self, late: &Late, held: &Prepared) -> Result<Recorded, TchError> {
        let no_stop = || Ok::<_, TchError>(());
        let (graph, launched) = Graph::record(self.device, || self.launched(late, held, &no_stop))?;
        Ok(Recorded { graph, report: launched.report })
    }

    /// [`Self::launched`], after which running statistics are as they were if it fails.
    fn whole_step<E: From<TchError>>(
        &mut self,
        late: &Late,
        prepared: &Prepared,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Launched, E> {
        self.launched(late, prepared, stop_point).inspect_err(|_| {
            // What went wrong matters more than that this does, too.
            let _ = self.buffers.restore();
        })
    }

    /// From views to changed weights, with nothing that waits for the device.
    fn launched<E: From<TchError>>(
        &mut self,
        late: &Late,
        prepared: &Prepared,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Launched, E> {
        self.buffers.save()?;
        self.optimizer.zero_gradients();
        let whole = Part { share: 1.0, is_last: true };
        let learned = self.learn(prepared, whole, None, stop_point)?;
        let report = self.update_unless_bad(late, &learned)?;
        Ok(Launched { report, repeats: !learned.has_moving_numbers })
    }

    /// The update of a step on the device, which changes nothing if loss or gradients are not finite.
    fn update_unless_bad(&mut self, late: &Late, learned: &Learned) -> Result<Tensor, TchError> {
        let loss = learned.loss.f_to_kind(Kind::Double)?;
        let norms = match sum_of_norms(&self.optimizer)? {
            Some(norms) => norms,
            None => loss.f_zeros_like()?,
        };
        let report = Tensor::f_stack(&[loss, norms], 0)?;
        let bad = report.f_isfinite()?.f_all()?.f_logical_not()?;
        let unless = bad.f_to_kind(Kind::Float)?;
        self.buffers.restore_if(&bad)?;
        self.phases.end(Phase::Other);
        let learning_rate = &late.learning_rate;
        self.optimizer.step(Rate::Held { learning_rate, unless: &unless })?;
        self.phases.end(Phase::Step);
        if let Some(teacher) = &mut self.teacher {
            let weight = late.weight.f_masked_fill(&bad, 0.0)?;
            teacher.follow_by(&self.online, &weight)?;
            self.phases.end(Phase::Average);
        }
        if let Some(queue) = &mut self.queue {
            let mut cursor = late.cursor.shallow_clone();
            for (keys, labels) in &learned.keys {
                queue.enqueue_unless(&bad, &mut cursor, keys, labels)?;
            }
            self.phases.end(Phase::Queue);
        }
        Ok(report)
    }
}

impl Prepared {
    /// The same in memory of its own, but for what belongs to the queue.
    fn in_memory_that_stays(&self) -> Result<Self, TchError> {
        let drawn = self
            .drawn
            .iter()
            .map(|drawn| Ok(Drawn { partner: copy(&drawn.partner)?, share: copy(&drawn.share)? }));
        let shuffle = |own: &Shuffle| {
            Ok::<_, TchError>(Shuffle { chosen: copy(&own.chosen)?, back: copy(&own.back)? })
        };
        let shuffles = self.shuffles.iter().map(|own| own.as_ref().map(shuffle).transpose());
        let Labels { batch, queue, offset } = &self.labels;
        Ok(Self {
            views: self.views.iter().map(copy).collect::<Result<_, _>>()?,
            labels: Labels {
                batch: copy(batch)?,
                queue: queue.as_ref().map(Tensor::shallow_clone),
                offset: *offset,
            },
            drawn: drawn.collect::<Result<_, TchError>>()?,
            shuffles: shuffles.collect::<Result<_, _>>()?,
        })
    }

    /// Takes over what another batch brings; the memory stays.
    fn take_over(&self, other: &Self) -> Result<(), TchError> {
        let mut pairs = self.brought().into_iter().zip(other.brought());
        pairs.try_for_each(|(mine, theirs)| mine.shallow_clone().f_copy_(theirs))
    }

    fn brought(&self) -> Vec<&Tensor> {
        let drawn = self.drawn.iter().flat_map(|drawn| [&drawn.partner, &drawn.share]);
        let shuffles = self.shuffles.iter().flatten().flat_map(|own| [&own.chosen, &own.back]);
        self.views.iter().chain([&self.labels.batch]).chain(drawn).chain(shuffles).collect()
    }
}

fn copy(tensor: &Tensor) -> Result<Tensor, TchError> {
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}
