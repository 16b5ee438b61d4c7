//! What one training step changes, and the step.
//!
//! A [`Learner`] holds the networks, the optimizer, the queue and the method, and nothing of a run: no
//! folder, no loader, no clock on the wall. Its step is
//!
//! 1. for each batch: encode, loss, backward ([`learn`](Learner::learn));
//! 2. if all is finite: optimizer, momentum encoder, queue.
//!
//! The second part comes in two forms. As a rule the host reads the loss and decides
//! ([`update`](Learner::update)); the module `late` lets the device decide, so that the host need not wait
//! and reads what became of the step later ([`Step::read`]).

pub(crate) mod encode;
pub(crate) mod late;
mod step;

use std::cell::Cell;
use std::sync::Arc;

use nearkin_data::Random;
use nearkin_data::random::Purpose;
use nearkin_dist::{Reducer, World};
use nearkin_model::{Encoder, MomentumEncoder, Parameters, Queue};
use nearkin_objective::{Labels, Measures, evaluate, evaluate_and_measure};
use nearkin_recipe::QueueStart;
use nearkin_torch::{CudaSettings, ExactProducts, send};
use tch::{Device, TchError, Tensor};

use self::encode::Prepared;
use self::late::Late;
pub use self::step::{Step, StepReport};
use crate::batches::TrainingBatch;
use crate::checkpoint::{Files, MODEL, MOMENTUM_ENCODER, OPTIMIZER, QUEUE};
use crate::guard::{Buffers, Checked, are_sound, read_together, sum_of_norms};
use crate::job::divide;
use crate::phases::{Phase, Phases};
use crate::{LearningRate, Momentum, Optimizer, Setup, TrainError};

/// Networks, optimizer, queue and method, and how far they are: what a step of training changes.
///
/// This is the loop of a run without its folder:
///
/// ```no_run
/// use nearkin_dist::SingleProcess;
/// use nearkin_train::{Batches, Learner, Setup};
///
/// let recipe = nearkin_recipe::Recipe::read("recipes/demo.toml".as_ref())?;
/// let images = recipe.open_training_images()?;
/// let setup = Setup::new(recipe)?;
/// let mut learner = Learner::new(setup, images.len(), tch::Device::Cpu, SingleProcess::shared())?;
/// let mut batches = Batches::new(&learner, images, 2)?;
/// while learner.steps_done() < learner.total_steps() {
///     let report = learner.step(&mut batches)?.read()?;
///     println!("step {}: loss {:.3}", report.step, report.loss);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Learner {
    pub(crate) setup: Setup,
    pub(crate) device: Device,
    pub(crate) world: Arc<dyn World>,
    reducer: Box<dyn Reducer>,
    pub(crate) online: Encoder,
    pub(crate) teacher: Option<MomentumEncoder>,
    pub(crate) queue: Option<Queue>,
    pub(crate) optimizer: Optimizer,
    /// Running statistics, which an encoder changes before anybody knows that the step is bad.
    buffers: Buffers,
    learning_rate: LearningRate,
    momentum: Option<Momentum>,
    /// If the host does not wait for the device in a step.
    pub(crate) late: Option<Late>,
    /// Runs in a benchmark only.
    pub(crate) phases: Phases,
    /// Parts of the batch of all processes within which images are mixed.
    mixing_blocks: usize,
    pub(crate) steps_per_epoch: u64,
    pub(crate) total_steps: u64,
    /// Steps done.
    pub(crate) step: u64,
    /// The step at which the running statistics were last those of all processes.
    settled_at: Cell<u64>,
}

/// What one step made, before anything was changed.
pub(crate) struct Gradients {
    pub(crate) loss: f64,
    /// Of a step whose measures are written down.
    pub(crate) measures: Option<Measures>,
    /// Whether all gradients are finite.
    finite: bool,
    /// Keys for the queue, with the labels of their images.
    keys: Vec<(Tensor, Tensor)>,
    /// Of the first batch with a non-finite loss, else of the last.
    pub(crate) views: Vec<Tensor>,
    /// Places of the images in their set.
    images: Vec<usize>,
    requests: Requests,
}

/// What should happen after a step, in any of the processes and therefore in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests {
    /// End the run.
    pub(crate) interrupted: bool,
    /// Write a checkpoint, because the last one is old.
    pub(crate) by_time: bool,
}

/// What a batch brought to a step.
struct Learned {
    loss: Tensor,
    /// Keys for the queue, with the labels of their images.
    keys: Vec<(Tensor, Tensor)>,
    /// Whether the method has numbers that move with the steps.
    has_moving_numbers: bool,
}

/// The place of a batch in its step.
#[derive(Clone, Copy)]
struct Part {
    /// Of the step's loss.
    share: f64,
    /// No batch of the step follows.
    is_last: bool,
}

/// What a learner trains and compares with.
struct Networks {
    online: Encoder,
    teacher: Option<MomentumEncoder>,
    queue: Option<Queue>,
}

impl Networks {
    /// The networks at step 0, drawn from the recipe's seed.
    fn new(setup: &Setup, device: Device, world: &Arc<dyn World>) -> Result<Self, TchError> {
        let recipe = &setup.recipe;
        let torch_seed =
            |part| Random::new(Purpose::Initialisation, recipe.seed, part, 0).bits() >> 1;
        let kind = setup.kind();
        let mut online = Encoder::new(&recipe.model, torch_seed(0), device, kind)?;
        let mut teacher = setup
            .momentum_encoder
            .map(|options| MomentumEncoder::copy_of(&online, &recipe.model, options, device, kind))
            .transpose()?;
        let together = recipe.training.synchronize_batch_norm;
        if together {
            online.synchronize(Arc::clone(world));
        }
        if let Some(teacher) = &mut teacher {
            teacher.spread(Arc::clone(world), together)?;
        }
        let dimensions = online.dimensions();
        let queue = setup.queue.map(|queue| match queue.start {
            QueueStart::Random => {
                Queue::random(queue.size.get(), dimensions, torch_seed(1), device, kind)
            }
            QueueStart::Zeros => Queue::zeros(queue.size.get(), dimensions, device, kind),
        });
        Ok(Self { online, teacher, queue: queue.transpose()? })
    }
}

impl Learner {
    /// Creates the networks that `setup` describes, for training on `training_images` images. All processes
    /// of a `world` create the same ones.
    ///
    /// Fails if a step needs more images than there are, and where a number of the recipe cannot be
    /// divided among the processes.
    pub fn new(
        setup: Setup,
        training_images: usize,
        device: Device,
        world: Arc<dyn World>,
    ) -> Result<Self, TrainError> {
        let steps_per_epoch = setup.steps_per_epoch(training_images)?;
        let mixing_blocks = divide(&setup.recipe, world.size())?;
        CudaSettings { tf32: setup.recipe.training.tf32, timed_convolutions: true }.apply()?;
        let late = Late::new(&setup.recipe, world.size(), device)?;
        let Networks { online, teacher, queue } = Networks::new(&setup, device, &world)?;
        let recipe = &setup.recipe;
        let total_steps = steps_per_epoch * recipe.training.epochs.get();
        let networks =
            [Some(online.parameters()), teacher.as_ref().map(MomentumEncoder::parameters)];
        let warmup = recipe.schedule.warmup_epochs * steps_per_epoch;
        let peak = recipe.optimizer.scaled_learning_rate(recipe.images_per_step());
        let trained = online.parameters().trainable();
        let trained: Vec<Tensor> =
            trained.map(|parameter| parameter.tensor.shallow_clone()).collect();
        Ok(Self {
            optimizer: Optimizer::new(online.parameters(), &recipe.optimizer)?,
            buffers: Buffers::of(networks.into_iter().flatten()),
            learning_rate: LearningRate::new(peak, warmup, total_steps, recipe.schedule),
            momentum: setup.momentum_encoder.map(|options| {
                Momentum::new(options.momentum.get(), total_steps, options.schedule)
            }),
            reducer: world.reducer(&trained)?,
            queue,
            late,
            setup,
            device,
            world,
            online,
            teacher,
            phases: Phases::default(),
            mixing_blocks,
            steps_per_epoch,
            total_steps,
            step: 0,
            settled_at: Cell::new(0),
        })
    }

    /// What is trained.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The encoder that is trained by gradients.
    pub fn encoder(&self) -> &Encoder {
        &self.online
    }

    /// The encoder that follows it, if the method has one.
    pub fn momentum_encoder(&self) -> Option<&MomentumEncoder> {
        self.teacher.as_ref()
    }

    /// Steps that were made.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Steps of the whole training, for which the schedules are made.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Goes on after `step`, with the next key at `queue_next` of the queue.
    pub(crate) fn continue_at(&mut self, step: u64, queue_next: Option<i64>) {
        self.step = step;
        self.settled_at.set(step);
        if let (Some(queue), Some(next)) = (&mut self.queue, queue_next) {
            queue.continue_at(next);
        }
    }

    /// The learning rate of the next step.
    pub(crate) fn next_learning_rate(&self) -> f64 {
        self.learning_rate.at(self.step)
    }

    /// The momentum of the momentum encoder in the next step.
    pub(crate) fn next_momentum(&self) -> Option<f64> {
        self.momentum.map(|momentum| momentum.at(self.step))
    }

    /// Whether the measures of the next step are written down.
    pub(crate) fn measures_next(&self) -> bool {
        (self.step + 1).is_multiple_of(self.setup.recipe.training.record_every_steps.get())
    }

    /// Encode, loss, backward: adds the gradient of a batch to that of the weights. `measures` takes up
    /// what is to be written down; `stop_point` comes before every pass.
    fn learn<E: From<TchError>>(
        &self,
        prepared: &Prepared,
        Part { share, is_last }: Part,
        measures: Option<&mut Measures>,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Learned, E> {
        let batch = self.encode(prepared, stop_point)?;
        // Similarities are divided by small temperatures: they keep all digits.
        let exact = ExactProducts::begin()?;
        let terms = self.setup.method.terms(&batch.encoded)?;
        let loss = if let Some(measures) = measures {
            let (evaluated, measured) = evaluate_and_measure(&terms, Some(&prepared.labels))?;
            measures.absorb(&measured, share);
            evaluated.loss
        } else {
            evaluate(&terms)?.loss
        };
        drop((terms, exact));
        self.phases.end(Phase::Loss);
        self.backward(&loss.f_mul_scalar(share)?, &batch, is_last, stop_point)?;
        self.phases.end(Phase::Backward);
        let new = self.queue.iter().flat_map(|_| self.setup.requirements.new_keys(&batch.encoded));
        let labels = &prepared.labels.batch;
        Ok(Learned {
            keys: new.map(|keys| (keys.gathered.shallow_clone(), labels.shallow_clone())).collect(),
            loss: loss.f_detach()?,
            has_moving_numbers: batch.encoded.progress.has_moving_numbers(),
        })
    }

    /// Gradients of one step, averaged over its batches, which `next` gives; nothing but running statistics
    /// changes, and not even those in a step that is not finished. `requests` is asked at the end.
    pub(crate) fn gradients<E: From<TchError> + From<TrainError>>(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Gradients, E> {
        self.buffers.save()?;
        self.accumulate(next, requests, stop_point).inspect_err(|_| {
            // What went wrong matters more than that this does, too.
            let _ = self.buffers.restore();
        })
    }

    fn accumulate<E: From<TchError> + From<TrainError>>(
        &mut self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        requests: &dyn Fn() -> Requests,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Gradients, E> {
        self.optimizer.zero_gradients();
        let batches = self.setup.recipe.training.accumulate_batches.get();
        let share = 1.0 / batches as f64;
        let (mut keys, mut views, mut images) = (Vec::new(), Vec::new(), Vec::new());
        let mut loss = 0.0;
        let mut measures = self.measures_next().then(Measures::default);
        let mut unread = None::<Tensor>;
        for number in 0..batches {
            // A loss is read as late as it can be: reading waits for the device.
            if let Some(before) = unread.take() {
                loss += share * before.f_double_value(&[])?;
            }
            let prepared = self.prepare_next(next, number, &mut images)?;
            let part = Part { share, is_last: number + 1 == batches };
            let learned = self.learn(&prepared, part, measures.as_mut(), stop_point)?;
            if f64::is_finite(loss) {
                views = prepared.views;
            }
            unread = Some(learned.loss);
            keys.extend(learned.keys);
        }
        let norms = sum_of_norms(&self.optimizer)?;
        let [last_loss, norms] = read_together([unread, norms])?;
        loss += share * last_loss;
        let requests = self.exchange(&mut loss, measures.as_mut(), requests())?;
        Ok(Gradients { loss, measures, finite: norms.is_finite(), keys, views, images, requests })
    }

    /// The batch of this `number` in the step under way, ready to be learned; the places of its images
    /// are added to `images`.
    fn prepare_next<E: From<TchError> + From<TrainError>>(
        &self,
        next: &mut dyn FnMut() -> Result<Option<TrainingBatch>, E>,
        number: usize,
        images: &mut Vec<usize>,
    ) -> Result<Prepared, E> {
        let batch = next()?.ok_or(TrainError::NoBatch { step: self.step + 1 })?;
        batch.check(self.setup.requirements.roles.len())?;
        images.extend(batch.images);
        let prepared = self.prepare(batch.views, &batch.labels, number)?;
        self.phases.end(Phase::Other);
        Ok(prepared)
    }

    /// Makes loss, measures and requests those of all processes, in one exchange.
    fn exchange(
        &self,
        loss: &mut f64,
        measures: Option<&mut Measures>,
        requests: Requests,
    ) -> Result<Requests, TchError> {
        if self.world.size() == 1 {
            return Ok(requests);
        }
        let processes = self.world.size() as f64;
        let flag = |wish| f64::from(u8::from(wish));
        let mut numbers =
            vec![*loss / processes, flag(requests.interrupted), flag(requests.by_time)];
        numbers.extend(measures.iter().flat_map(|measures| measures.numbers()));
        let mut sums = Tensor::f_from_slice(&numbers)?.f_to_device(self.device)?;
        self.world.sum(&mut sums)?;
        let mut numbers = Vec::<f64>::try_from(sums.f_to_device(Device::Cpu)?)?;
        if let Some(measures) = measures {
            numbers[3] /= processes;
            measures.set_numbers(&numbers[3..]);
        }
        *loss = numbers[0];
        Ok(Requests { interrupted: numbers[1] > 0.0, by_time: numbers[2] > 0.0 })
    }

    /// The optimizer, then the momentum encoder, then the queue. A step that is not finite changes
    /// nothing; says whether it was finite.
    pub(crate) fn update(&mut self, gradients: &Gradients) -> Result<bool, TchError> {
        let (learning_rate, momentum) = (self.next_learning_rate(), self.next_momentum());
        self.step += 1;
        if !(gradients.loss.is_finite() && gradients.finite) {
            self.buffers.restore()?;
            return Ok(false);
        }
        self.phases.end(Phase::Other);
        self.optimizer.step(learning_rate)?;
        self.phases.end(Phase::Step);
        if let (Some(teacher), Some(momentum)) = (&mut self.teacher, momentum) {
            teacher.follow(&self.online, momentum)?;
            self.phases.end(Phase::Average);
        }
        if let Some(queue) = &mut self.queue {
            for (keys, labels) in &gradients.keys {
                queue.enqueue(keys, labels)?;
            }
            self.phases.end(Phase::Queue);
        }
        Ok(true)
    }

    /// Labels of a batch's images, of which `local` are those of this process, and of the keys in the
    /// queue.
    fn labels(&self, local: &[i64]) -> Result<Labels, TchError> {
        let local = send(local, &[local.len() as i64], self.device)?;
        Ok(Labels {
            offset: self.world.rank() as i64 * local.size()[0],
            batch: self.world.gather(&local)?,
            queue: self.queue.as_ref().map(Queue::labels),
        })
    }

    /// Running statistics that each process keeps for its own images become those of all. They follow
    /// the batches linearly, so averages now are what averages after every step would have been. Only the
    /// first call after a step changes anything: an average of equal numbers can differ in its last digit.
    pub(crate) fn settle_statistics(&self) -> Result<(), TchError> {
        let alone = self.world.size() == 1;
        let synchronized = self.setup.recipe.training.synchronize_batch_norm;
        let groups = self.setup.momentum_encoder.map_or(1, |own| own.batch_norm_splits.get());
        let settled = self.settled_at.replace(self.step) == self.step;
        if alone || (synchronized && groups == 1) || settled {
            return Ok(());
        }
        let statistics = self.buffers.live();
        if statistics.is_empty() {
            return Ok(());
        }
        let flat: Vec<Tensor> =
            statistics.iter().map(|tensor| tensor.f_reshape([-1])).collect::<Result<_, _>>()?;
        let mut all = Tensor::f_cat(&flat, 0)?;
        self.world.sum(&mut all)?;
        let all = all.f_div_scalar(self.world.size() as f64)?;
        let lengths: Vec<i64> = flat.iter().map(|tensor| tensor.size()[0]).collect();
        for (mut own, mean) in statistics.into_iter().zip(all.f_split_with_sizes(&lengths, 0)?) {
            own.f_copy_(&mean.f_view_as(&own)?)?;
        }
        Ok(())
    }

    /// All tensors of the state, by file of a checkpoint.
    pub(crate) fn files(&self) -> Files {
        let mut files = vec![
            (MODEL, self.online.parameters().named()),
            (OPTIMIZER, self.optimizer.state().collect()),
        ];
        if let Some(teacher) = &self.teacher {
            files.push((MOMENTUM_ENCODER, teacher.parameters().named()));
        }
        if let Some(queue) = &self.queue {
            let tensors =
                vec![("queue".to_owned(), queue.rows()), ("labels".to_owned(), queue.labels())];
            files.push((QUEUE, tensors));
        }
        files
    }

    /// Whether nothing that a checkpoint holds shows in any process that the run has diverged.
    pub(crate) fn is_sound(&self) -> Result<bool, TchError> {
        let networks = [
            Some(self.online.parameters()),
            self.teacher.as_ref().map(MomentumEncoder::parameters),
        ];
        let networks = networks.into_iter().flatten().flat_map(Parameters::iter);
        let weights = networks.map(|entry| Checked::Weights(entry.tensor.shallow_clone()));
        let other = self.optimizer.state().map(|(_, tensor)| tensor);
        let other = other.chain(self.queue.as_ref().map(Queue::rows)).map(Checked::Other);
        let sound = are_sound(weights.chain(other), self.device)?;
        Ok(self.world.maximum(i64::from(!sound))? == 0)
    }
}

/// The files of a checkpoint, as [`Learner::files`] fills them.
pub(crate) fn files_of(setup: &Setup) -> Vec<&'static str> {
    let momentum_encoder = setup.momentum_encoder.map(|_| MOMENTUM_ENCODER);
    let queue = setup.queue.map(|_| QUEUE);
    [Some(MODEL), Some(OPTIMIZER), momentum_encoder, queue].into_iter().flatten().collect()
}
