//! Free combination: every piece of the common formula set by the recipe.
//!
//! ```text
//! t_i = coefficient_i positives_i + (1 - coefficient_i) relations_i
//! L_i = - sum_c t_ic ( a_ic - LSE_{c in denominator_i} a_ic )
//! ```
//!
//! Most named methods are such settings (`nearkin methods --explain NAME` shows which), and the tests
//! hold them to it; this one is for the settings that have no name.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::method::{Frame, Pairing, at_least};
use crate::refinery::{Predictions, confident, refine};
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::selection::{Aggregation, Selection, scores};
use crate::{
    Card, Choice, Denominator, Embedding, Encoded, Entry, Labels, Method, MixedInput, Mixing,
    ParameterError, Per, Progress, QueueUse, Role, Rows, Rule, Scheduled, Term, checks, target,
};

inventory::submit! { Entry::of::<Combination>() }

/// What anchors are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Candidates {
    /// The own key, then the queue.
    Queue,
    /// The keys of the batch, then the queue if there is one.
    KeysAndQueue,
    /// All views of the batch through the online encoder, with gradient.
    Views,
}

/// Whose similarities to the candidates the relations are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Teacher {
    /// Those of the momentum encoder: the key, or its embedding of the anchor's view.
    Momentum,
    /// Those of the anchor itself, without gradient.
    Online,
    /// Those of the momentum encoder's embeddings of support views, aggregated.
    Support,
}

/// Who stands in the denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum In {
    /// Every candidate but the anchor itself.
    All,
    /// Every candidate but the anchor itself and the selected ones.
    WithoutSelected,
    /// Every candidate but views of the own image.
    Negatives,
    /// None.
    Nothing,
}

/// Which candidates share the weight of the positives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Positives {
    /// The own key, or the other views of the own image.
    #[default]
    Own,
    /// The teacher's nearest candidate of another image.
    NearestNeighbour,
    /// All candidates of the same class. **Supervised**.
    Labels,
}

/// How weight is spread over other images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Relations {
    /// Not at all.
    #[default]
    None,
    /// By the teacher's similarities: softmax over candidates of other images.
    Softmax {
        /// Divides the similarities.
        temperature: Scheduled,
        /// Over which of them.
        #[serde(default)]
        over: Over,
    },
    /// Equally, on the selected candidates.
    Selected,
    /// All of it on the teacher's nearest candidate.
    NearestNeighbour,
    /// Equally, on the candidates of the same class. **Supervised**.
    Labels,
}

/// Which candidates of other images a softmax is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Over {
    /// All.
    #[default]
    Others,
    /// The selected ones.
    Selected,
}

/// How much weight the positives have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Coefficient {
    /// The same for all anchors.
    Scheduled(Scheduled),
    /// One for each anchor.
    Rule(CoefficientRule),
}

/// A coefficient per anchor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum CoefficientRule {
    /// SANE's refinery; relations must be a softmax.
    Refinery {
        /// mu.
        strength: Scheduled,
        /// Which predictions refine.
        #[serde(default)]
        predictions: Predictions,
    },
    /// ASCL's entropy; relations must be a softmax.
    Entropy {
        /// K.
        strength: Scheduled,
    },
    /// Positives / (positives + selected), as in FNC's attraction and SupCon.
    Count,
}

impl Serialize for Coefficient {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Scheduled(scheduled) => scheduled.serialize(serializer),
            Self::Rule(rule) => rule.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Coefficient {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let error = |reason: toml::de::Error| serde::de::Error::custom(reason.message());
        match value.get("rule") {
            Some(_) => value.try_into().map(Self::Rule).map_err(error),
            None => value.try_into().map(Self::Scheduled).map_err(error),
        }
    }
}

/// `[method.target]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Target {
    positives: Positives,
    relations: Relations,
    coefficient: Coefficient,
}

impl Relations {
    /// Whether they need a selection.
    fn are_of_selected(self) -> bool {
        matches!(self, Self::Selected | Self::Softmax { over: Over::Selected, .. })
    }
}

impl Target {
    /// Refuses pieces that do not fit each other, or that would silently do nothing.
    fn check(self) -> Result<(), ParameterError> {
        let Self { positives, relations, coefficient } = self;
        if let Relations::Softmax { temperature, .. } = relations {
            checks::temperature("target.relations.temperature", temperature)?;
        }
        let softmax = matches!(relations, Relations::Softmax { over: Over::Others, .. });
        let counts = matches!(relations, Relations::Selected | Relations::Labels);
        let own = positives == Positives::Own;
        let refuse = |key, value: &str, reason: &str| {
            Err(ParameterError::new(key, &value, reason))
        };
        match coefficient {
            Coefficient::Scheduled(scheduled) => {
                checks::fraction("target.coefficient", scheduled)?;
                let ends = scheduled.ends();
                let value = ends.map(|end| end.to_string()).join(" to ");
                if relations == Relations::None && ends != [1.0; 2] {
                    let reason = "without target.relations there is nothing for the rest of the weight";
                    return refuse("target.coefficient", &value, reason);
                }
                if relations != Relations::None && ends == [1.0; 2] {
                    let reason = "it leaves no weight for target.relations: give a smaller one";
                    return refuse("target.coefficient", "1", reason);
                }
            }
            Coefficient::Rule(CoefficientRule::Refinery { strength, .. }) => {
                checks::weight("target.coefficient.strength", strength)?;
                if !(softmax && own) {
                    let reason = "the refinery needs target.relations of kind \"softmax\" over all others, and the own positives";
                    return refuse("target.coefficient.rule", "refinery", reason);
                }
            }
            Coefficient::Rule(CoefficientRule::Entropy { strength }) => {
                checks::weight("target.coefficient.strength", strength)?;
                if !softmax {
                    let reason = "the entropy is that of target.relations of kind \"softmax\" over all others";
                    return refuse("target.coefficient.rule", "entropy", reason);
                }
            }
            Coefficient::Rule(CoefficientRule::Count) => {
                if !(counts && own) {
                    let reason = "there is something to count where target.relations are \"selected\" or \"labels\" and positives are the own";
                    return refuse("target.coefficient.rule", "count", reason);
                }
            }
        }
        Ok(())
    }
}

impl Default for Target {
    fn default() -> Self {
        Self {
            positives: Positives::Own,
            relations: Relations::None,
            coefficient: Coefficient::Scheduled(1.0.into()),
        }
    }
}

/// What mixed anchors are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MixupKind {
    /// A query's image and the image behind another one's key.
    Momentum,
    /// Two queries' images.
    Vanilla,
}

/// `[method.mixup]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mixup {
    kind: MixupKind,
    /// Of the mixed anchors; what is left is the weight of the queries with one-hot targets.
    weight: f64,
    concentration: f64,
    #[serde(default)]
    per: Per,
    #[serde(default)]
    larger_share: bool,
}

impl Mixup {
    fn mixing(self) -> Mixing {
        let Self { concentration, per, larger_share, .. } = self;
        Mixing { concentration, per, larger_share }
    }
}

/// Hyper-parameters of [`Combination`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the online encoder's similarities.
    temperature: f64,
    candidates: Candidates,
    denominator: In,
    teacher: Teacher,
    /// How many views (the last ones) are support only.
    support_views: usize,
    aggregation: Aggregation,
    /// Which candidates of other images count as selected, by the teacher's similarities.
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<Selection>,
    /// With keys: all views online and the first `global_views` in the momentum encoder too, or view
    /// 0 in the momentum encoder and the others online.
    symmetric: bool,
    global_views: usize,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    mixup: Option<Mixup>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            candidates: Candidates::Queue,
            denominator: In::All,
            teacher: Teacher::Momentum,
            support_views: 0,
            aggregation: Aggregation::Maximum,
            selection: None,
            symmetric: false,
            global_views: 2,
            target: Target::default(),
            mixup: None,
        }
    }
}

/// Free combination.
#[derive(Debug)]
pub(crate) struct Combination(Parameters);

impl Define for Combination {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "combination",
        title: "Free combination: every piece of the common formula set by the recipe",
        paper: "the formula that all methods here share; see the paper of each piece",
        equation: "t_i = coefficient_i positives_i + (1 - coefficient_i) relations_i\nL_i = - sum_c t_ic ( a_ic - LSE_{c in denominator_i} a_ic )",
        pieces: &[
            ("candidates", "queue | keys_and_queue | views"),
            ("target.positives", "own | nearest_neighbour | labels (SUPERVISED)"),
            ("target.relations", "{ kind = none | softmax (temperature, over = others or selected) | selected | nearest_neighbour | labels (SUPERVISED) }"),
            ("target.coefficient", "a number | { from, to, epochs, shape } | { rule = refinery (strength, predictions) | entropy (strength) | count }"),
            ("selection", "none, or { top_k, threshold }: candidates of other images that the teacher finds similar"),
            ("denominator", "all | without_selected | negatives | nothing"),
            ("mixup", "none, or { kind = momentum | vanilla, weight, concentration, per, larger_share }"),
            ("teacher", "momentum | online | support (support_views, aggregation)"),
        ],
        combination: None,
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        parameters.target.check()?;
        let Target { relations, positives, .. } = parameters.target;
        let needs = |fits: bool, key: &'static str, value: &str, reason: &'static str| match fits {
            true => Ok(()),
            false => Err(ParameterError::new(key, &value, reason)),
        };
        let selected = relations.are_of_selected();
        let eliminates = parameters.denominator == In::WithoutSelected;
        if let Some(selection) = parameters.selection {
            selection.check("selection.")?;
            let reason = "neither target.relations nor the denominator look at it: remove it";
            needs(selected || eliminates, "selection", "set", reason)?;
            let reason = "labels select here: remove it";
            needs(relations != Relations::Labels, "selection", "set", reason)?;
        }
        let selects = parameters.selection.is_some();
        let reason = "nothing is selected: give selection = { top_k, threshold }";
        needs(!selected || selects, "target.relations", "selected", reason)?;
        let fits = !eliminates || selects || relations == Relations::Labels;
        needs(fits, "denominator", "without_selected", reason)?;
        let fits = !eliminates || positives != Positives::NearestNeighbour;
        let reason = "the positive itself would leave the denominator";
        needs(fits, "denominator", "without_selected", reason)?;

        let support = parameters.teacher == Teacher::Support;
        let reason = "teacher = \"support\" and support_views > 0 go together";
        let views = parameters.support_views.to_string();
        needs(support == (parameters.support_views > 0), "support_views", &views, reason)?;
        let reason = "nothing asks the teacher: leave it out";
        needs(!support || parameters.asks_teacher(), "teacher", "support", reason)?;
        let among_views = parameters.candidates == Candidates::Views;
        let reason = "it says which views make keys, and candidates = \"views\" has none";
        needs(!(among_views && parameters.symmetric), "symmetric", "true", reason)?;
        let fits = !among_views
            || !matches!(
                parameters.target.coefficient,
                Coefficient::Rule(CoefficientRule::Refinery { .. })
            );
        let reason = "the refinery needs keys: set candidates to \"queue\" or \"keys_and_queue\"";
        needs(fits, "target.coefficient.rule", "refinery", reason)?;
        if let Some(mixup) = parameters.mixup {
            checks::positive_fraction("mixup.weight", mixup.weight)?;
            mixup.mixing().check("mixup.concentration")?;
            let fits = parameters.candidates == Candidates::KeysAndQueue && !parameters.symmetric;
            let reason = "mixed anchors need shared candidates: set candidates = \"keys_and_queue\" and symmetric = false";
            needs(fits, "mixup", "set", reason)?;
            let fits = parameters.denominator == In::All && parameters.teacher == Teacher::Momentum;
            let reason = "mixed anchors need denominator = \"all\" and teacher = \"momentum\"";
            needs(fits, "mixup", "set", reason)?;
        }
        Ok(Self(parameters))
    }
}

/// What a rule needs to choose a block's targets.
struct Chooser {
    target: Target,
    denominator: In,
    aggregation: Aggregation,
    selection: Option<Selection>,
    /// Each `[anchors, dimensions]`.
    teachers: Vec<Tensor>,
    labels: Option<Labels>,
    largest_logit: f64,
    progress: Progress,
}

impl Chooser {
    fn choose(&self, rows: &Rows<'_>) -> Result<Choice, TchError> {
        let own_image = rows.own_image()?;
        let kind = rows.kind();
        let similarities = match self.teachers.is_empty() {
            true => Tensor::f_zeros([rows.count(), 0], (kind, own_image.device()))?,
            false => scores(rows, &self.teachers, self.aggregation)?,
        };
        let nearest = || {
            let others = similarities.f_scatter_value(1, &own_image, f64::NEG_INFINITY)?;
            let (largest, place) = others.f_max_dim(1, true)?;
            let there_is_one = largest.f_gt(f64::NEG_INFINITY)?;
            rows.mask(&place)?.f_logical_and(&there_is_one)?.f_to_kind(kind)
        };
        let of_class = || -> Result<Tensor, TchError> {
            let labels = self.labels.as_ref();
            let labels = labels.ok_or_else(|| TchError::Shape("there are no labels".into()))?;
            rows.same_class(labels)?.f_scatter_value_(1, &own_image, 0)
        };
        let positives = match self.target.positives {
            Positives::Own => rows.uniform_positives()?,
            Positives::NearestNeighbour => nearest()?,
            Positives::Labels => {
                let own = rows.mask(&rows.positives()?)?;
                target::uniform_on(&of_class()?.f_logical_or(&own)?, kind)?
            }
        };
        let selected = match (self.target.relations, self.selection) {
            (Relations::Labels, _) => Some(of_class()?),
            (_, Some(selection)) => Some(selection.select(&similarities, &own_image)?),
            (_, None) => None,
        };
        let relations = match (self.target.relations, &selected) {
            (Relations::Softmax { temperature, over: Over::Selected }, Some(selected)) => {
                let out = selected.f_logical_not()?;
                let inside = similarities.f_masked_fill(&out, f64::NEG_INFINITY)?;
                let none = selected.f_any_dim(1, true)?.f_logical_not()?;
                let relations =
                    target::relations(&inside, &own_image, temperature.at(&self.progress))?;
                Some(relations.f_masked_fill(&none, 0.0)?)
            }
            (Relations::Softmax { temperature, .. }, _) => {
                let temperature = temperature.at(&self.progress);
                Some(target::relations(&similarities, &own_image, temperature)?)
            }
            (Relations::Selected | Relations::Labels, Some(selected)) => {
                Some(target::uniform_on(selected, kind)?)
            }
            (Relations::NearestNeighbour, _) => Some(nearest()?),
            (Relations::None | Relations::Selected | Relations::Labels, _) => None,
        };
        let target = match &relations {
            None => positives,
            Some(relations) => {
                self.mix(rows, &similarities, &positives, relations, selected.as_ref())?
            }
        };
        let denominator = self.denominator(rows, &own_image, selected.as_ref())?;
        Ok(Choice { selected, ..Choice::new(target, denominator) })
    }

    fn mix(
        &self,
        rows: &Rows<'_>,
        similarities: &Tensor,
        positives: &Tensor,
        relations: &Tensor,
        selected: Option<&Tensor>,
    ) -> Result<Tensor, TchError> {
        match (self.target.coefficient, self.target.relations) {
            (
                Coefficient::Rule(CoefficientRule::Refinery { strength, predictions }),
                Relations::Softmax { temperature, .. },
            ) => {
                let (own, strength) = (rows.positives()?, strength.at(&self.progress));
                let temperature = temperature.at(&self.progress);
                Ok(refine(similarities, &own, temperature, strength, predictions)?.labels)
            }
            (Coefficient::Rule(CoefficientRule::Entropy { strength }), _) => {
                let negatives = rows.candidates() - rows.own_image()?.size()[1];
                confident(relations, positives, negatives, strength.at(&self.progress))
            }
            (Coefficient::Rule(_), _) => match selected {
                Some(selected) => {
                    let own = rows.mask(&rows.positives()?)?;
                    target::uniform_on(&selected.f_logical_or(&own)?, positives.kind())
                }
                None => Ok(positives.shallow_clone()),
            },
            (Coefficient::Scheduled(coefficient), _) => {
                target::mixture_of(positives, relations, coefficient.at(&self.progress))
            }
        }
    }

    fn denominator(
        &self,
        rows: &Rows<'_>,
        own_image: &Tensor,
        selected: Option<&Tensor>,
    ) -> Result<Denominator, TchError> {
        let itself = rows.itself()?;
        Ok(match (self.denominator, selected) {
            (In::Nothing, _) => Denominator::Nothing { largest_logit: self.largest_logit },
            (In::Negatives, _) => Denominator::without(rows, Some(own_image))?,
            (In::WithoutSelected, Some(selected)) => match itself {
                Some(itself) => {
                    Denominator::Except(selected.f_logical_or(&rows.mask(&itself)?)?)
                }
                None => Denominator::Except(selected.shallow_clone()),
            },
            (In::All | In::WithoutSelected, _) => Denominator::without(rows, itself.as_ref())?,
        })
    }
}

impl Combination {
    fn pairing(&self) -> Pairing {
        Pairing::new(self.0.symmetric, self.0.global_views)
    }

    /// The rule for anchors of an online view, with the teacher's embedding of a momentum view.
    fn rule(
        &self,
        encoded: &Encoded,
        anchors: &Tensor,
        momentum_view: usize,
    ) -> Result<Rule, TchError> {
        let main = encoded.online.len() - self.0.support_views;
        let teachers = match self.0.teacher {
            _ if !self.0.asks_teacher() => Vec::new(),
            Teacher::Momentum => vec![encoded.momentum(momentum_view)?.local.f_detach()?],
            Teacher::Online => vec![anchors.f_detach()?],
            Teacher::Support => (main..encoded.online.len())
                .map(|view| encoded.momentum(view)?.local.f_detach())
                .collect::<Result<_, _>>()?,
        };
        let chooser = Chooser {
            target: self.0.target,
            denominator: self.0.denominator,
            aggregation: self.0.aggregation,
            selection: self.0.selection,
            teachers,
            labels: encoded.labels.as_ref().map(Labels::shallow_clone),
            largest_logit: 1.0 / self.0.temperature,
            progress: encoded.progress.clone(),
        };
        Ok(Box::new(move |rows| chooser.choose(rows)))
    }
}

impl Parameters {
    /// Whether anything looks at the teacher's similarities.
    fn asks_teacher(&self) -> bool {
        let Target { positives, relations, .. } = self.target;
        positives == Positives::NearestNeighbour
            || self.selection.is_some()
            || !matches!(relations, Relations::None | Relations::Labels)
    }
}

impl Method for Combination {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        let support = self.0.support_views;
        at_least(views, support + 2, " (two, and support_views)")?;
        let main = views - support;
        if self.0.mixup.is_some() {
            checks::two_views(main)?;
        }
        let asked = self.0.asks_teacher() && self.0.teacher == Teacher::Momentum;
        let mut roles = match self.0.candidates {
            Candidates::Views => vec![Role { online: true, momentum: asked }; main],
            Candidates::Queue | Candidates::KeysAndQueue => self.pairing().roles(main)?,
        };
        if self.0.mixup.is_some_and(|mixup| mixup.weight == 1.0) {
            roles[1].online = false;
        }
        roles.resize(views, Role { online: false, momentum: true });
        Ok(roles)
    }

    fn queue_use(&self) -> QueueUse {
        match self.0.candidates {
            Candidates::Queue => QueueUse::Required,
            Candidates::KeysAndQueue => QueueUse::Optional,
            Candidates::Views => QueueUse::Never,
        }
    }

    fn encodes_views_together(&self) -> bool {
        self.0.candidates == Candidates::Views
    }

    fn uses_labels(&self) -> bool {
        let Target { positives, relations, .. } = self.0.target;
        positives == Positives::Labels || relations == Relations::Labels
    }

    fn mixed_inputs(&self, _views: usize) -> Vec<MixedInput> {
        let input = |mixup: Mixup| {
            let other = match mixup.kind {
                MixupKind::Momentum => 0,
                MixupKind::Vanilla => 1,
            };
            MixedInput { base: 1, other, mixing: mixup.mixing() }
        };
        self.0.mixup.map(input).into_iter().collect()
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let temperature = self.0.temperature;
        let main = encoded.online.len() - self.0.support_views;
        if self.0.candidates == Candidates::Views {
            let weight = 1.0 / main as f64;
            let term = |(view, frame): (usize, Frame)| {
                let rule = self.rule(encoded, &frame.anchors, view)?;
                Ok(frame.term(temperature, rule).weighing(weight))
            };
            return encoded.among_online_views()?.into_iter().enumerate().map(term).collect();
        }
        let in_batch = self.0.candidates == Candidates::KeysAndQueue;
        let mut terms = Vec::new();
        let mixed_weight = self.0.mixup.map_or(0.0, |mixup| mixup.weight);
        for (online, momentum, weight) in self.pairing().pairs(main) {
            if mixed_weight == 1.0 {
                break;
            }
            let frame = encoded.against_keys(online, momentum, in_batch)?;
            let rule: Rule = match self.0.mixup {
                None => self.rule(encoded, &frame.anchors, momentum)?,
                Some(_) => Box::new(discriminate),
            };
            let term = frame.term(temperature, rule).weighing(weight * (1.0 - mixed_weight));
            terms.push(Term { measured: self.0.mixup.is_none(), ..term });
        }
        for mixed in &encoded.mixed {
            let frame = encoded.keys_frame(0, true, &mixed.anchors)?;
            let rule = self.rule(encoded, &mixed.anchors, 0)?;
            terms.push(frame.mixed_term(mixed, temperature, rule).weighing(mixed_weight));
        }
        Ok(terms)
    }

    fn keys<'a>(&self, encoded: &'a Encoded) -> Vec<&'a Embedding> {
        let main = encoded.momentum.len() - self.0.support_views;
        encoded.momentum[..main].iter().flatten().collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
