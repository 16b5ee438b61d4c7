#![doc = include_str!("combination.md")]

mod settings;

use tch::{TchError, Tensor};

pub use settings::Settings;

use crate::method::at_least;
use crate::refinery::{Predictions, confident, refine};
use crate::selection::{Aggregation, Selection, scores};
use crate::{
    AnchorBlock, Choice, Define, Denominator, Encoded, Entry, Frame, Labels, Method, MixedInput,
    Pairing, ParameterError, Progress, QueueUse, Requirements, Role, Rule, Scheduled, Term,
    ViewPair, checks, target,
};

inventory::submit! { Entry::new::<Combination>() }

/// The pieces of a combination; whatever these types can hold makes sense.
#[derive(Clone, Debug)]
pub struct Combination {
    /// Divides the online encoder's similarities.
    temperature: f64,
    anchors: Anchors,
    target: Target,
    denominator: Competitors,
    /// Whose similarities to the candidates relations and selections are made of.
    teacher: Teacher,
}

/// What anchors are compared with.
#[derive(Clone, Copy, Debug)]
enum Anchors {
    /// Every view with all views of the batch through the online encoder, with gradient.
    AmongViews,
    /// Queries with their own key, then the queue.
    AgainstQueue(Pairing),
    /// Queries with the keys of the batch, then the queue if there is one.
    AgainstKeys(Pairing),
    /// The same, and mixtures of queries.
    MixedAgainstKeys(Mixup),
}

/// Mixed anchors, which have the target; queries that are not mixed are told apart.
#[derive(Clone, Copy, Debug)]
struct Mixup {
    input: MixedInput,
    /// Of the mixed anchors; what is left is the weight of the queries.
    weight: f64,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    /// All weight on the positives.
    Positives(Positives),
    /// The same coefficient for all anchors.
    Mixed { positives: Positives, relations: Relations, coefficient: Scheduled },
    /// SANE's refinery of the own positive, with the softmax at this temperature.
    Refined { temperature: Scheduled, strength: Scheduled, predictions: Predictions },
    /// ASCL's entropy of the softmax at this temperature.
    Confident { positives: Positives, temperature: Scheduled, strength: Scheduled },
    /// Equal weights on the own positives and the picked.
    Counted(Picks),
}

#[derive(Clone, Copy, Debug)]
enum Positives {
    /// The own key, or the other views of the own image.
    Own,
    /// The teacher's nearest candidate of another image.
    NearestNeighbor,
    /// All candidates of the same class. **Supervised**.
    Labels,
}

#[derive(Clone, Copy, Debug)]
enum Relations {
    /// Softmax of the teacher's similarities over candidates of other images.
    Softmax { temperature: Scheduled },
    /// The same over the picked.
    SoftmaxOfPicked { temperature: Scheduled, picks: Picks },
    /// Equal weights on the picked.
    Picked(Picks),
    /// All weight on the teacher's nearest candidate.
    NearestNeighbor,
}

/// What says which candidates of other images are picked.
#[derive(Clone, Copy, Debug)]
enum Picks {
    /// The teacher's similarities.
    Similar(Selection),
    /// The labels. **Supervised**.
    Labels,
}

/// Who stands in the denominator.
#[derive(Clone, Copy, Debug)]
enum Competitors {
    /// Every candidate but the anchor itself.
    All,
    /// Every candidate but the anchor itself and the picked.
    WithoutPicked(Picks),
    /// Every candidate but views of the own image.
    Negatives,
    /// None.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Teacher {
    /// Nothing asks for one.
    None,
    /// The momentum encoder's key, or its embedding of the anchor's view.
    Momentum,
    /// The anchor itself, without gradient.
    Online,
    /// The momentum encoder's embeddings of the last `views` views, which are support only.
    Support { views: usize, aggregation: Aggregation },
}

impl Define for Combination {
    type Settings = Settings;
    const NAME: &'static str = "combination";
    const CARD: &'static str = include_str!("combination.md");

    fn new(settings: Settings) -> Result<Self, ParameterError> {
        settings.combination()
    }
}

impl Method for Combination {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        let support = self.support_views();
        at_least(views, support + 2, " (two, and support_views)")?;
        let main = views - support;
        let mut mixed_inputs = Vec::new();
        let (mut roles, queue) = match self.anchors {
            Anchors::AmongViews => {
                let asked = matches!(self.teacher, Teacher::Momentum);
                (vec![Role::new(true, asked); main], QueueUse::Never)
            }
            Anchors::AgainstQueue(pairing) => (pairing.roles(main)?, QueueUse::Required),
            Anchors::AgainstKeys(pairing) => (pairing.roles(main)?, QueueUse::Optional),
            Anchors::MixedAgainstKeys(mixup) => {
                checks::two_views(main)?;
                mixed_inputs.push(mixup.input);
                // What has no weight is not encoded.
                (vec![Role::KEY, Role::new(mixup.weight < 1.0, false)], QueueUse::Optional)
            }
        };
        roles.resize(views, Role::KEY);
        let requirements = Requirements::new(roles);
        Ok(Requirements {
            queue,
            enqueued: requirements.enqueued.iter().copied().filter(|&view| view < main).collect(),
            views_share_batch_norm: matches!(self.anchors, Anchors::AmongViews),
            labels: self.uses_labels(),
            mixed_inputs,
            ..requirements
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let main = encoded.online.len() - self.support_views();
        match self.anchors {
            Anchors::AmongViews => {
                let numbered = encoded.among_online_views()?.into_iter().enumerate();
                numbered
                    .map(|(view, frame)| {
                        let term = self.term(encoded, frame, view)?;
                        Ok(term.weighing(1.0 / main as f64))
                    })
                    .collect()
            }
            Anchors::AgainstQueue(pairing) | Anchors::AgainstKeys(pairing) => {
                let term = |ViewPair { online, key, weight }| {
                    let anchors = &encoded.online(online)?.local;
                    let frame = if matches!(self.anchors, Anchors::AgainstQueue(_)) {
                        encoded.against_own_key(anchors, key)?
                    } else {
                        encoded.against_all_keys(anchors, key)?
                    };
                    Ok(self.term(encoded, frame, key)?.weighing(weight))
                };
                pairing.pairs(main).into_iter().map(term).collect()
            }
            Anchors::MixedAgainstKeys(mixup) => self.mixed_terms(encoded, mixup),
        }
    }
}

impl Combination {
    fn support_views(&self) -> usize {
        match self.teacher {
            Teacher::Support { views, .. } => views,
            Teacher::None | Teacher::Momentum | Teacher::Online => 0,
        }
    }

    fn uses_labels(&self) -> bool {
        matches!(self.picks(), Some(Picks::Labels)) || matches!(self.positives(), Positives::Labels)
    }

    fn positives(&self) -> Positives {
        match self.target {
            Target::Positives(positives)
            | Target::Mixed { positives, .. }
            | Target::Confident { positives, .. } => positives,
            Target::Refined { .. } | Target::Counted(_) => Positives::Own,
        }
    }

    /// The picks of target or denominator; where both have some, they are the same.
    fn picks(&self) -> Option<Picks> {
        let of_target = match self.target {
            Target::Counted(picks)
            | Target::Mixed {
                relations: Relations::Picked(picks) | Relations::SoftmaxOfPicked { picks, .. },
                ..
            } => Some(picks),
            _ => None,
        };
        let of_denominator = match self.denominator {
            Competitors::WithoutPicked(picks) => Some(picks),
            Competitors::All | Competitors::Negatives | Competitors::Nothing => None,
        };
        of_target.or(of_denominator)
    }

    fn term<'a>(
        &'a self,
        encoded: &'a Encoded,
        frame: Frame,
        key_view: usize,
    ) -> Result<Term<'a>, TchError> {
        let rule = self.rule(encoded, &frame.anchors, key_view)?;
        Ok(frame.term(self.temperature, rule))
    }

    fn mixed_terms<'a>(
        &'a self,
        encoded: &'a Encoded,
        mixup: Mixup,
    ) -> Result<Vec<Term<'a>>, TchError> {
        let mut terms = Vec::new();
        if mixup.weight < 1.0 {
            let frame = encoded.against_all_keys(&encoded.online(1)?.local, 0)?;
            let term = frame.term(self.temperature, Box::new(Choice::discriminate));
            terms.push(Term { measured: false, ..term.weighing(1.0 - mixup.weight) });
        }
        for mixed in &encoded.mixed {
            let frame = encoded.against_all_keys(&mixed.anchors, 0)?;
            let rule = self.rule(encoded, &mixed.anchors, 0)?;
            terms.push(frame.mixed_term(mixed, self.temperature, rule).weighing(mixup.weight));
        }
        Ok(terms)
    }

    /// The rule for anchors whose own keys are those of `key_view`.
    fn rule<'a>(
        &'a self,
        encoded: &'a Encoded,
        anchors: &Tensor,
        key_view: usize,
    ) -> Result<Rule<'a>, TchError> {
        let key = |view| encoded.key(view)?.local.f_detach();
        let views = encoded.online.len();
        let teachers = match self.teacher {
            Teacher::None => Vec::new(),
            Teacher::Momentum => vec![key(key_view)?],
            Teacher::Online => vec![anchors.f_detach()?],
            Teacher::Support { views: support, .. } => {
                (views - support..views).map(key).collect::<Result<_, _>>()?
            }
        };
        let labels = encoded.labels.as_ref();
        let progress = &encoded.progress;
        Ok(Box::new(move |block| {
            TermRule { combination: self, teachers: &teachers, labels, progress }.choose(block)
        }))
    }
}

/// A combination with what it knows of the anchors of a term.
struct TermRule<'a> {
    combination: &'a Combination,
    /// Each `[anchors, dimensions]`.
    teachers: &'a [Tensor],
    labels: Option<&'a Labels>,
    progress: &'a Progress,
}

impl TermRule<'_> {
    fn choose(&self, block: &AnchorBlock<'_>) -> Result<Choice, TchError> {
        let similarities = self.similarities(block)?;
        let picks = self.combination.picks();
        let picked = picks.map(|picks| self.pick(block, &similarities, picks)).transpose()?;
        let target = self.target(block, &similarities, picked.as_ref())?;
        let denominator = match (self.combination.denominator, &picked) {
            (Competitors::WithoutPicked(_), Some(picked)) => {
                Denominator::without_anchor_and(block, picked)?
            }
            (Competitors::All | Competitors::WithoutPicked(_), _) => {
                Denominator::without_anchor(block)?
            }
            (Competitors::Negatives, _) => Denominator::without(block, &block.own_image()?)?,
            (Competitors::Nothing, _) => {
                Denominator::Constant { logarithm: 1.0 / self.combination.temperature }
            }
        };
        Ok(Choice { selected: picked, ..Choice::new(target, denominator) })
    }

    /// The teacher's similarities to the candidates: `[block, candidates]`, or without columns if
    /// nothing asks for them.
    fn similarities(&self, block: &AnchorBlock<'_>) -> Result<Tensor, TchError> {
        match self.combination.teacher {
            Teacher::None => {
                let device = block.positives()?.device();
                Tensor::f_zeros([block.count(), 0], (block.kind(), device))
            }
            Teacher::Support { aggregation, .. } => scores(block, self.teachers, aggregation),
            Teacher::Momentum | Teacher::Online => {
                scores(block, self.teachers, Aggregation::Maximum)
            }
        }
    }

    fn same_class_of_others(&self, block: &AnchorBlock<'_>) -> Result<Tensor, TchError> {
        let labels = self.labels.ok_or_else(|| TchError::Shape("there are no labels".into()))?;
        labels.same_class_of_others(block)
    }

    fn pick(
        &self,
        block: &AnchorBlock<'_>,
        similarities: &Tensor,
        picks: Picks,
    ) -> Result<Tensor, TchError> {
        match picks {
            Picks::Labels => self.same_class_of_others(block),
            Picks::Similar(selection) => selection.select(similarities, &block.own_image()?),
        }
    }

    fn target(
        &self,
        block: &AnchorBlock<'_>,
        similarities: &Tensor,
        picked: Option<&Tensor>,
    ) -> Result<Tensor, TchError> {
        let at = |scheduled: Scheduled| scheduled.at(self.progress);
        match self.combination.target {
            Target::Positives(positives) => self.positives(block, similarities, positives),
            Target::Mixed { positives, relations, coefficient } => {
                let positives = self.positives(block, similarities, positives)?;
                let relations = self.relations(block, similarities, relations, picked)?;
                target::mix(&positives, &relations, at(coefficient))
            }
            Target::Refined { temperature, strength, predictions } => {
                let (own, temperature) = (block.positives()?, at(temperature));
                let refined = refine(similarities, &own, temperature, at(strength), predictions)?;
                Ok(refined.labels)
            }
            Target::Confident { positives, temperature, strength } => {
                let positives = self.positives(block, similarities, positives)?;
                let own_image = block.own_image()?;
                let relations = target::softmax_except(similarities, &own_image, at(temperature))?;
                let negatives = block.candidates() - own_image.size()[1];
                confident(&relations, &positives, negatives, at(strength))
            }
            Target::Counted(_) => {
                let own = block.mask(&block.positives()?)?;
                let all =
                    picked.map_or_else(|| Ok(own.shallow_clone()), |it| it.f_logical_or(&own));
                target::uniform_on(&all?, block.kind())
            }
        }
    }

    fn positives(
        &self,
        block: &AnchorBlock<'_>,
        similarities: &Tensor,
        positives: Positives,
    ) -> Result<Tensor, TchError> {
        match positives {
            Positives::Own => block.uniform_positives(),
            Positives::NearestNeighbor => nearest(block, similarities),
            Positives::Labels => {
                let own = block.mask(&block.positives()?)?;
                let all = self.same_class_of_others(block)?.f_logical_or(&own)?;
                target::uniform_on(&all, block.kind())
            }
        }
    }

    fn relations(
        &self,
        block: &AnchorBlock<'_>,
        similarities: &Tensor,
        relations: Relations,
        picked: Option<&Tensor>,
    ) -> Result<Tensor, TchError> {
        let own_image = block.own_image()?;
        let none_picked = || block.mask(&own_image.f_narrow(1, 0, 0)?);
        match relations {
            Relations::Softmax { temperature } => {
                target::softmax_except(similarities, &own_image, temperature.at(self.progress))
            }
            Relations::SoftmaxOfPicked { temperature, .. } => {
                let picked =
                    picked.map_or_else(none_picked, |picked| Ok(picked.shallow_clone()))?;
                let inside =
                    similarities.f_masked_fill(&picked.f_logical_not()?, f64::NEG_INFINITY)?;
                let temperature = temperature.at(self.progress);
                let softmax = target::softmax_except(&inside, &own_image, temperature)?;
                let none = picked.f_any_dim(1, true)?.f_logical_not()?;
                softmax.f_masked_fill(&none, 0.0)
            }
            Relations::Picked(_) => {
                let picked =
                    picked.map_or_else(none_picked, |picked| Ok(picked.shallow_clone()))?;
                target::uniform_on(&picked, block.kind())
            }
            Relations::NearestNeighbor => nearest(block, similarities),
        }
    }
}

/// All weight on the most similar candidate of another image, where there is one.
fn nearest(block: &AnchorBlock<'_>, similarities: &Tensor) -> Result<Tensor, TchError> {
    let others = similarities.f_scatter_value(1, &block.own_image()?, f64::NEG_INFINITY)?;
    let (largest, place) = others.f_max_dim(1, true)?;
    let there_is_one = largest.f_gt(f64::NEG_INFINITY)?;
    block.mask(&place)?.f_logical_and(&there_is_one)?.f_to_kind(block.kind())
}
