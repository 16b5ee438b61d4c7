//! From the views of a batch to the loss's gradient in the encoder.
//!
//! What a method compares is made here: every view through the encoders of its role, mixtures, and
//! the rows of all processes. The gradient comes back in one of two ways. As a rule the activations
//! of the whole batch are kept. With micro-batches they are not: all images are encoded once without
//! them, the loss of the whole batch gives the gradient of each embedding, and then each micro-batch
//! is encoded again, this time with its activations, to carry its part of that gradient into the
//! weights (gradient caching). The weights do not change in between, so both ways give the same.

use nearkin_data::Random;
use nearkin_data::random::Purpose;
use nearkin_model::{MomentumEncoder, Queue, Shuffle};
use nearkin_objective::{
    Embedding, Encoded, KeyEncoder, Labels, Mixed, MixedInput, Per, Progress, mix, unit_rows,
};
use nearkin_recipe::Precision;
use nearkin_torch::{Autocast, send};
use tch::{Kind, TchError, Tensor};

use super::Learner;
use crate::guard::Buffers;
use crate::phases::Phase;

/// Inputs of the online encoder that share the statistics of batch norm: `[batch, ...]` each.
type Inputs = Vec<Tensor>;

/// What the online encoder makes of each of [`Inputs`], not normalised, before and after the
/// predictor.
struct Outputs {
    projected: Vec<Tensor>,
    embedded: Vec<Tensor>,
}

/// All that a batch brings to a step: its views, and what was drawn for them, on the device.
pub(crate) struct Prepared {
    pub(crate) views: Vec<Tensor>,
    pub(crate) labels: Labels,
    /// One for each mixed input of the method.
    pub(crate) drawn: Vec<Drawn>,
    /// Of the views that the momentum encoder sees in another order.
    pub(crate) shuffles: Vec<Option<Shuffle>>,
}

/// With which other row each row of a mixture is mixed, and its own share.
pub(crate) struct Drawn {
    pub(crate) partner: Tensor,
    pub(crate) share: Tensor,
}

/// A batch on its way through the encoders.
pub(crate) struct Batch {
    inputs: Vec<Inputs>,
    outputs: Vec<Outputs>,
    /// What the method gets.
    pub(crate) encoded: Encoded,
}

impl Learner {
    /// Draws what the step of a batch needs: its `views` are on the device, and `labels` are those of its
    /// images in this process.
    pub(crate) fn prepare(
        &self,
        views: Vec<Tensor>,
        labels: &[i64],
        batch_of_step: usize,
    ) -> Result<Prepared, TchError> {
        let place = |index: usize| (batch_of_step * views.len() + index) as u64;
        let mixed = self.setup.requirements.mixed_inputs.iter().enumerate();
        let drawn = mixed.map(|(index, input)| self.draw(&views[input.base], input, place(index)));
        let teacher = self.teacher.as_ref();
        // Micro-batches have no groups, and so no order.
        let teacher = teacher.filter(|_| self.setup.recipe.training.micro_batch_size.is_none());
        let shuffles = views.iter().zip(&self.setup.requirements.roles).enumerate();
        let shuffles = shuffles.map(|(index, (view, role))| match teacher {
            Some(teacher) if role.is_momentum() => {
                let images = view.size()[0] as usize * self.world.size();
                let (seed, place) = (self.setup.recipe.seed, place(index));
                let mut random = Random::new(Purpose::Shuffle, seed, self.step, place);
                teacher.shuffle(&random.permutation(images))
            }
            _ => Ok(None),
        });
        Ok(Prepared {
            drawn: drawn.collect::<Result<_, _>>()?,
            shuffles: shuffles.collect::<Result<_, _>>()?,
            labels: self.labels(labels)?,
            views,
        })
    }

    /// Every view through the encoders that its role names, and mixtures of views; `stop_point` comes
    /// before every pass.
    pub(crate) fn encode<E: From<TchError>>(
        &self,
        prepared: &Prepared,
        stop_point: impl Fn() -> Result<(), E>,
    ) -> Result<Batch, E> {
        let inputs = self.online_inputs(prepared)?;
        let outputs = inputs.iter().map(|inputs| self.run_online(inputs, &stop_point));
        let outputs = outputs.collect::<Result<Vec<_>, E>>()?;
        let mut of_views =
            outputs.iter().flat_map(|outputs| outputs.projected.iter().zip(&outputs.embedded));
        let (mut projected, mut online) = (Vec::new(), Vec::new());
        for role in &self.setup.requirements.roles {
            let outputs = if role.online { of_views.next() } else { None };
            online.push(outputs.map(|both| self.spread(unit_rows(both.1)?)).transpose()?);
            let keys = outputs.filter(|_| role.key == Some(KeyEncoder::Projector));
            projected.push(keys.map(|both| unit_rows(&both.0.f_detach()?)).transpose()?);
        }
        let mixed = prepared.drawn.iter().zip(of_views).map(|(drawn, (_, embedded))| {
            let (partner, share) = (drawn.partner.shallow_clone(), drawn.share.shallow_clone());
            Ok(Mixed { anchors: unit_rows(embedded)?, partner, share })
        });
        let mixed = mixed.collect::<Result<_, TchError>>()?;
        self.phases.end(Phase::Encode);
        let keys = self.keys(prepared, projected, &stop_point)?;
        self.phases.end(Phase::Teacher);
        let labels = &prepared.labels;
        let encoded = Encoded {
            online,
            keys,
            mixed,
            queue: self.queue.as_ref().map(Queue::rows),
            labels: self.setup.requirements.labels.then(|| labels.shallow_clone()),
            offset: labels.offset,
            progress: Progress::new(self.step, self.total_steps, self.steps_per_epoch),
        };
        Ok(Batch { inputs, outputs, encoded })
    }

    /// What the online encoder sees: views, together or one by one, and behind them the mixtures.
    fn online_inputs(&self, prepared: &Prepared) -> Result<Vec<Inputs>, TchError> {
        let Prepared { views, drawn, .. } = prepared;
        let requirements = &self.setup.requirements;
        let online = views.iter().zip(&requirements.roles).filter(|(_, role)| role.online);
        let online = online.map(|(view, _)| view.shallow_clone());
        let mut inputs: Vec<Inputs> = if requirements.views_share_batch_norm {
            vec![online.collect()]
        } else {
            online.map(|view| vec![view]).collect()
        };
        for (input, drawn) in requirements.mixed_inputs.iter().zip(drawn) {
            let (base, other) = (&views[input.base], &views[input.other]);
            inputs.push(vec![mix(base, other, &drawn.partner, &drawn.share)?]);
        }
        Ok(inputs)
    }

    /// The keys of each view that has some: of the momentum encoder, or as the online encoder has
    /// `projected` them.
    fn keys<E: From<TchError>>(
        &self,
        prepared: &Prepared,
        projected: Vec<Option<Tensor>>,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Vec<Option<Embedding>>, E> {
        let Prepared { views, shuffles, .. } = prepared;
        let roles = &self.setup.requirements.roles;
        let mut keys = Vec::with_capacity(views.len());
        for (((view, role), shuffle), projected) in
            views.iter().zip(roles).zip(shuffles).zip(projected)
        {
            let rows = match (&self.teacher, projected) {
                (Some(teacher), _) if role.is_momentum() => {
                    let embedded =
                        self.run_momentum(teacher, view, shuffle.as_ref(), stop_point)?;
                    Some(unit_rows(&embedded)?)
                }
                (_, projected) => projected,
            };
            keys.push(rows.map(|rows| self.spread(rows)).transpose()?);
        }
        Ok(keys)
    }

    /// With the rows of all processes.
    fn spread(&self, local: Tensor) -> Result<Embedding, TchError> {
        Ok(Embedding { gathered: self.world.gather(&local)?, local })
    }

    /// Adds the gradient of a batch's `loss` to that of the weights. The `last` of a step also
    /// averages over the processes. `stop_point` comes before every pass.
    pub(crate) fn backward<E: From<TchError>>(
        &self,
        loss: &Tensor,
        batch: &Batch,
        last: bool,
        stop_point: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        stop_point()?;
        let Some(rows) = self.setup.recipe.training.micro_batch_size else {
            if last {
                self.reducer.before_backward()?;
            }
            loss.f_backward()?;
            if last {
                self.reducer.after_backward()?;
            }
            return Ok(());
        };
        loss.f_backward()?;
        // Running statistics have met these images already.
        let mut statistics = Buffers::of([self.online.parameters()]);
        statistics.save()?;
        let micro_batches =
            batch.inputs.iter().zip(&batch.outputs).flat_map(|(inputs, outputs)| {
                chunks(inputs, rows.get()).map(move |range| (inputs, outputs, range))
            });
        let mut micro_batches = micro_batches.peekable();
        while let Some((inputs, outputs, range)) = micro_batches.next() {
            stop_point()?;
            let again = self.run_at_once(&narrow(inputs, range)?)?;
            let mut product = Tensor::f_zeros([], (loss.kind(), loss.device()))?;
            for (leaf, embedded) in outputs.embedded.iter().zip(&again.embedded) {
                let gradient = leaf.f_grad()?;
                if gradient.defined() {
                    let part = gradient.f_narrow(0, range.0, range.1)?;
                    product = product.f_add(&embedded.f_mul(&part)?.f_sum(loss.kind())?)?;
                }
            }
            if last && micro_batches.peek().is_none() {
                self.reducer.before_backward()?;
            }
            product.f_backward()?;
        }
        statistics.restore()?;
        if last {
            self.reducer.after_backward()?;
        }
        Ok(())
    }

    /// The online encoder's outputs, with the graph to the weights or, with micro-batches, as leaves
    /// that will receive a gradient.
    fn run_online<E: From<TchError>>(
        &self,
        inputs: &Inputs,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Outputs, E> {
        let Some(rows) = self.setup.recipe.training.micro_batch_size else {
            stop_point()?;
            return Ok(self.run_at_once(inputs)?);
        };
        let pass = |range| {
            stop_point()?;
            Ok(self.run_at_once(&narrow(inputs, range)?)?)
        };
        let parts = tch::no_grad(|| {
            chunks(inputs, rows.get()).map(pass).collect::<Result<Vec<Outputs>, E>>()
        })?;
        let join = |of: &dyn Fn(&Outputs) -> &Vec<Tensor>, leaf: bool| {
            let whole = |member: usize| {
                let parts: Vec<&Tensor> = parts.iter().map(|part| &of(part)[member]).collect();
                Tensor::f_cat(&parts, 0)?.f_set_requires_grad(leaf)
            };
            (0..inputs.len()).map(whole).collect::<Result<Vec<_>, TchError>>()
        };
        Ok(Outputs {
            projected: join(&|part| &part.projected, false)?,
            embedded: join(&|part| &part.embedded, true)?,
        })
    }

    fn run_at_once(&self, inputs: &Inputs) -> Result<Outputs, TchError> {
        let embed = |images: &Tensor| {
            let _autocast = self.autocast()?;
            let (projected, embedded) = self.online.project_and_embed(images)?;
            Ok::<_, TchError>((self.widened(projected)?, self.widened(embedded)?))
        };
        if let [alone] = &inputs[..] {
            let (projected, embedded) = embed(alone)?;
            return Ok(Outputs { projected: vec![projected], embedded: vec![embedded] });
        }
        let rows: Vec<i64> = inputs.iter().map(|input| input.size()[0]).collect();
        let (projected, embedded) = embed(&Tensor::f_cat(inputs, 0)?)?;
        Ok(Outputs {
            projected: projected.f_split_with_sizes(&rows, 0)?,
            embedded: embedded.f_split_with_sizes(&rows, 0)?,
        })
    }

    /// In force while an encoder runs, if the recipe asks for bfloat16.
    fn autocast(&self) -> Result<Option<Autocast>, TchError> {
        let asked = self.setup.recipe.training.precision == Precision::Bfloat16;
        asked.then(|| Autocast::to_bfloat16(self.device)).transpose()
    }

    /// Embeddings as what follows takes them: normalisation and loss need more than 16 bits.
    fn widened(&self, rows: Tensor) -> Result<Tensor, TchError> {
        match self.setup.recipe.training.precision {
            Precision::Bfloat16 => rows.f_to_kind(Kind::Float),
            Precision::Single | Precision::Double => Ok(rows),
        }
    }

    fn run_momentum<E: From<TchError>>(
        &self,
        teacher: &MomentumEncoder,
        view: &Tensor,
        shuffle: Option<&Shuffle>,
        stop_point: &impl Fn() -> Result<(), E>,
    ) -> Result<Tensor, E> {
        let _autocast = self.autocast()?;
        let Some(rows) = self.setup.recipe.training.micro_batch_size else {
            stop_point()?;
            return Ok(self.widened(teacher.embed(view, shuffle)?)?);
        };
        let parts = view.f_split(rows.get() as i64, 0)?;
        let pass = |part: &Tensor| {
            stop_point()?;
            Ok(teacher.embed(part, None)?)
        };
        let parts = parts.iter().map(pass).collect::<Result<Vec<_>, E>>()?;
        Ok(self.widened(Tensor::f_cat(&parts, 0)?)?)
    }

    /// Draws how the images of a view are mixed, within blocks of the batch of all processes.
    fn draw(&self, base: &Tensor, input: &MixedInput, place: u64) -> Result<Drawn, TchError> {
        let batch = base.size()[0] as usize;
        let blocks_here = self.mixing_blocks / self.world.size();
        let rows = batch / blocks_here;
        let (mut partner, mut shares) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
        for block in 0..blocks_here {
            let number = (self.world.rank() * blocks_here + block) as u64;
            let place = place | (number << 32);
            let mut random = Random::new(Purpose::Mixup, self.setup.recipe.seed, self.step, place);
            let order = random.permutation(rows).into_iter();
            partner.extend(order.map(|index| (block * rows + index) as i64));
            let mut draw = || {
                let share = random.symmetric_beta(input.mixing.concentration);
                if input.mixing.larger_share { share.max(1.0 - share) } else { share }
            };
            match input.mixing.per {
                Per::Sample => shares.extend((0..rows).map(|_| draw())),
                Per::Batch => shares.extend(vec![draw(); rows]),
            }
        }
        let device = self.device;
        let partner = send(&partner, &[batch as i64], device)?;
        let share = send(&shares, &[batch as i64], device)?.f_to_kind(base.kind())?;
        Ok(Drawn { partner, share })
    }
}

/// Micro-batches as first row and number of rows.
fn chunks(inputs: &Inputs, rows: usize) -> impl Iterator<Item = (i64, i64)> + use<> {
    let batch = inputs.first().map_or(0, |input| input.size()[0]);
    (0..batch).step_by(rows).map(move |start| (start, (batch - start).min(rows as i64)))
}

fn narrow(inputs: &Inputs, (start, rows): (i64, i64)) -> Result<Inputs, TchError> {
    inputs.iter().map(|input| input.f_narrow(0, start, rows)).collect()
}
