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

use nearkin_augment::Loader;
use nearkin_device::{ExactProducts, Graph, Moment, leave_default_stream};
use nearkin_kernel::Rate;
use nearkin_model::Shuffle;
use nearkin_objective::{Labels, evaluate};
use nearkin_recipe::{Recipe, StepForm};
use tch::{Device, Kind, TchError, Tensor};

use super::encode::{Drawn, Prepared};
use super::{Made, Trainer};
use crate::TrainError;
use crate::guard::sum_of_norms;
use crate::interrupt::Unfinished;
use crate::monitor::{Monitor, Position};
use crate::phases::Phase;

/// Steps that were started kernel by kernel, since a number of the method last moved, before one is
/// recorded: by then cuDNN has chosen its algorithms, and every gradient has its memory.
const BEFORE_RECORDING: u32 = 3;

/// What a run needs to go on without the host.
pub(super) struct Late {
    /// What the host tells the device before a step.
    learning_rate: Tensor,
    /// `1 - momentum` of the momentum encoder.
    weight: Tensor,
    /// Where the next key goes, if it is known here better than in the queue.
    cursor: Tensor,
    cursor_leads: bool,
    unread: Option<Unread>,
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
struct Unread {
    /// Loss and sum of the gradients' norms, on their way to the host.
    report: Tensor,
    arrived: Moment,
    position: Position,
    /// But for the loss.
    made: Made,
}

/// What a step leaves behind on the device.
struct Launched {
    /// Loss and sum of the gradients' norms, double precision.
    report: Tensor,
    /// Whether a later step computes the same with the same inputs.
    repeats: bool,
}

/// Why a recipe's wish for late steps is not fulfilled, if it is not.
pub(super) fn obstacle(recipe: &Recipe, processes: usize) -> Option<&'static str> {
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
    pub(super) fn of(
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
            unread: None,
            recording: if records { Recording::After(0) } else { Recording::Never },
        }))
    }
}

#[cfg(test)]
impl Late {
    /// As if this device could.
    pub(super) fn begin_recording(&mut self) {
        self.recording = Recording::After(0);
    }
}

impl Trainer {
    /// Whether the host need not wait for the next step.
    pub(super) fn reads_next_late(&self) -> bool {
        let every = self.setup.recipe.training.record_every_steps.get();
        self.late.is_some() && !(self.step + 1).is_multiple_of(every)
    }

    /// Starts a step and reads the one before.
    pub(super) fn step_late(
        &mut self,
        loader: &mut Loader,
        monitor: &mut Monitor,
    ) -> Result<(), Unfinished> {
        let Some(mut late) = self.late.take() else { return Ok(()) };
        let result = self.start(&mut late, loader, monitor);
        self.late = Some(late);
        let before = result?;
        match before {
            Some(before) => Ok(self.read(before, monitor)?),
            None => Ok(()),
        }
    }

    /// Reads the last step that was started, if it was not read yet: from here on the host knows
    /// everything.
    pub(super) fn settle(&mut self, monitor: &mut Monitor) -> Result<(), TrainError> {
        let Some(late) = &mut self.late else { return Ok(()) };
        let unread = late.unread.take();
        if std::mem::take(&mut late.cursor_leads)
            && let Some(queue) = &mut self.queue
        {
            queue.continue_at(late.cursor.f_int64_value(&[])?);
        }
        match unread {
            Some(unread) => self.read(unread, monitor),
            None => Ok(()),
        }
    }

    /// Gives the step before, which is to be read.
    fn start(
        &mut self,
        late: &mut Late,
        loader: &mut Loader,
        monitor: &mut Monitor,
    ) -> Result<Option<Unread>, Unfinished> {
        let waited_before = loader.wait();
        self.phases.end(Phase::Other);
        let batch = self.next_batch(loader)?;
        self.phases.end(Phase::Load);
        let prepared = self.prepare(&batch, 0)?;
        let metrics = self.metrics_of_next();
        let _ = late.learning_rate.f_fill_(metrics.learning_rate)?;
        let _ = late.weight.f_fill_(1.0 - metrics.momentum.unwrap_or(1.0))?;
        if let (false, Some(queue)) = (late.cursor_leads, &self.queue) {
            let _ = late.cursor.f_fill_(queue.next())?;
            late.cursor_leads = true;
        }
        self.phases.end(Phase::Other);
        let report = self.launch(late, &prepared, monitor);
        if matches!(report, Err(Unfinished::Stopped)) {
            self.buffers.restore()?;
        }
        let report = report?;
        self.step += 1;
        let to_host = report.f_to_device_(Device::Cpu, Kind::Double, true, false)?;
        let unread = Unread {
            report: to_host,
            arrived: Moment::now(self.options.device)?,
            position: self.position(),
            made: Made {
                metrics,
                images: batch.images,
                views: prepared.views,
                waited: loader.wait().saturating_sub(waited_before),
            },
        };
        self.phases.end(Phase::Other);
        Ok(late.unread.replace(unread))
    }

    fn read(&mut self, unread: Unread, monitor: &mut Monitor) -> Result<(), TrainError> {
        unread.arrived.wait()?;
        self.phases.end(Phase::Late);
        let Unread { report, position, mut made, .. } = unread;
        let numbers = Vec::<f64>::try_from(report)?;
        made.metrics.loss = numbers[0];
        let finite = numbers.iter().all(|number| number.is_finite());
        self.tell(position, made, finite, false, monitor)
    }

    /// Gives the device a whole step to do, kernel by kernel or as one graph.
    fn launch(
        &mut self,
        late: &mut Late,
        prepared: &Prepared,
        monitor: &mut Monitor,
    ) -> Result<Tensor, Unfinished> {
        let stop_point = self.stop_points();
        let recording = std::mem::replace(&mut late.recording, Recording::Never);
        let (held, recorded) = match recording {
            Recording::Never => return Ok(self.whole_step(late, prepared, &stop_point)?.report),
            Recording::After(steps) => {
                // The last one before the recording reads the memory that the recording will read: no
                // algorithm is left to choose then.
                let held = match steps + 1 {
                    BEFORE_RECORDING => Some(prepared.in_memory_that_stays()?),
                    _ => None,
                };
                let inputs = held.as_ref().unwrap_or(prepared);
                let launched = self.whole_step(late, inputs, &stop_point)?;
                late.recording = match held {
                    _ if !launched.repeats => Recording::After(0),
                    Some(held) => Recording::Ready { held, recorded: None },
                    None => Recording::After(steps + 1),
                };
                return Ok(launched.report);
            }
            Recording::Ready { held, recorded } => (held, recorded),
        };
        held.take_over(prepared)?;
        let recorded = match recorded {
            Some(recorded) => recorded,
            None => match self.record(late, &held) {
                Ok(recorded) => recorded,
                Err(error) => {
                    let message = format!(
                        "warning: the step cannot be recorded as a CUDA graph, and is started kernel by \
                         kernel: {error}"
                    );
                    monitor.event(self.position(), &message).map_err(TrainError::from)?;
                    return Ok(self.whole_step(late, &held, &stop_point)?.report);
                }
            },
        };
        recorded.graph.replay()?;
        let report = recorded.report.shallow_clone();
        late.recording = Recording::Ready { held, recorded: Some(recorded) };
        Ok(report)
    }

    /// Records a whole step, which therefore has no stop points.
    fn record(&mut self, late: &Late, held: &Prepared) -> Result<Recorded, TchError> {
        let device = self.options.device;
        let no_stop = || Ok::<_, TchError>(());
        let (graph, launched) = Graph::record(device, || self.whole_step(late, held, no_stop))?;
        Ok(Recorded { graph, report: launched.report })
    }

    /// From views to changed weights, with nothing that waits for the device.
    fn whole_step<E: From<TchError>>(
        &mut self,
        late: &Late,
        prepared: &Prepared,
        stop_point: impl Fn() -> Result<(), E>,
    ) -> Result<Launched, E> {
        self.buffers.save()?;
        self.optimizer.zero_gradients();
        let batch = self.encode(prepared, &stop_point)?;
        let exact = ExactProducts::begin()?;
        let loss = evaluate(&self.setup.method.terms(&batch.encoded)?)?.loss;
        drop(exact);
        self.phases.end(Phase::Loss);
        self.backward(&loss, &batch, true, &stop_point)?;
        self.phases.end(Phase::Backward);
        let loss = loss.f_detach()?.f_to_kind(Kind::Double)?;
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
            for keys in self.setup.requirements.new_keys(&batch.encoded) {
                let (keys, labels) = (&keys.gathered, &prepared.labels.batch);
                queue.enqueue_unless(&bad, &mut cursor, keys, labels)?;
            }
            self.phases.end(Phase::Queue);
        }
        Ok(Launched { report, repeats: !batch.encoded.progress.has_moving_numbers() })
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
