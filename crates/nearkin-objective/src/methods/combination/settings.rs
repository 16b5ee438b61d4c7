//! The `[method]` table of a free combination, and what its settings mean.
//!
//! Recipes set every piece by a key of its own, so pieces can contradict each other. [`Settings`]
//! holds the keys; [`Settings::combination`] refuses what makes no sense, or would silently do
//! nothing, and gives the pieces in types that cannot hold it.

use serde::{Deserialize, Serialize};

use super::{
    Anchors, Combination, Competitors, Mixup, Picks, Positives, Relations, Target, Teacher,
};
use crate::refinery::Predictions;
use crate::selection::{Aggregation, Selection};
use crate::{MixedInput, Mixing, Pairing, ParameterError, Per, Scheduled, checks};

/// The `[method]` table of a free combination.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    temperature: f64,
    candidates: CandidatesKey,
    denominator: DenominatorKey,
    teacher: TeacherKey,
    /// How many views (the last ones) are support only.
    support_views: usize,
    aggregation: Aggregation,
    /// Which candidates of other images count as selected, by the teacher's similarities.
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<Selection>,
    /// With keys: all views online and the first `global_views` keys too, or view 0 the keys and
    /// the others online.
    symmetric: bool,
    global_views: usize,
    target: TargetTable,
    #[serde(skip_serializing_if = "Option::is_none")]
    mixup: Option<MixupTable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CandidatesKey {
    Queue,
    KeysAndQueue,
    Views,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TeacherKey {
    Momentum,
    Online,
    Support,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DenominatorKey {
    All,
    WithoutSelected,
    Negatives,
    Nothing,
}

/// `[method.target]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TargetTable {
    positives: PositivesKey,
    relations: RelationsTable,
    coefficient: CoefficientValue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PositivesKey {
    #[default]
    Own,
    #[serde(rename = "nearest_neighbour")]
    NearestNeighbor,
    Labels,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum RelationsTable {
    #[default]
    None,
    Softmax {
        temperature: Scheduled,
        #[serde(default)]
        over: Over,
    },
    Selected,
    #[serde(rename = "nearest_neighbour")]
    NearestNeighbor,
    Labels,
}

/// Which candidates of other images a softmax is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Over {
    #[default]
    Others,
    Selected,
}

/// How much weight the positives have: the same for all anchors, or by a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum CoefficientValue {
    Scheduled(Scheduled),
    Rule(CoefficientRule),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
enum CoefficientRule {
    Refinery {
        strength: Scheduled,
        #[serde(default)]
        predictions: Predictions,
    },
    Entropy {
        strength: Scheduled,
    },
    Count,
}

impl Serialize for CoefficientValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Scheduled(scheduled) => scheduled.serialize(serializer),
            Self::Rule(rule) => rule.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CoefficientValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let error = |reason: toml::de::Error| serde::de::Error::custom(reason.message());
        match value.get("rule") {
            Some(_) => value.try_into().map(Self::Rule).map_err(error),
            None => value.try_into().map(Self::Scheduled).map_err(error),
        }
    }
}

/// `[method.mixup]`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MixupTable {
    kind: MixupKind,
    weight: f64,
    concentration: f64,
    #[serde(default)]
    per: Per,
    #[serde(default)]
    larger_share: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MixupKind {
    /// A query's image and the image behind another one's key.
    Momentum,
    /// Two queries' images.
    Vanilla,
}

impl Default for TargetTable {
    fn default() -> Self {
        Self {
            positives: PositivesKey::Own,
            relations: RelationsTable::None,
            coefficient: CoefficientValue::Scheduled(1.0.into()),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            candidates: CandidatesKey::Queue,
            denominator: DenominatorKey::All,
            teacher: TeacherKey::Momentum,
            support_views: 0,
            aggregation: Aggregation::Maximum,
            selection: None,
            symmetric: false,
            global_views: 2,
            target: TargetTable::default(),
            mixup: None,
        }
    }
}

/// `Ok` if the value fits, else the error with the reason.
fn require(fits: bool, key: &str, value: &str, reason: &str) -> Result<(), ParameterError> {
    if fits { Ok(()) } else { Err(ParameterError::new(key, &value, reason)) }
}

const NOTHING_SELECTED: &str = "nothing is selected: give selection = { top_k, threshold }";

impl Settings {
    /// The pieces, if they fit each other.
    pub(super) fn combination(&self) -> Result<Combination, ParameterError> {
        checks::temperature("temperature", self.temperature)?;
        let target = self.target()?;
        let denominator = self.denominator()?;
        self.check_selection()?;
        let teacher = self.teacher()?;
        Ok(Combination {
            temperature: self.temperature,
            anchors: self.anchors()?,
            target,
            denominator,
            teacher,
        })
    }

    /// What picks candidates, if anything does.
    fn picks(&self) -> Option<Picks> {
        match (self.target.relations, self.selection) {
            (RelationsTable::Labels, _) => Some(Picks::Labels),
            (_, selection) => selection.map(Picks::Similar),
        }
    }

    fn target(&self) -> Result<Target, ParameterError> {
        let TargetTable { positives, relations, coefficient } = self.target;
        if let RelationsTable::Softmax { temperature, .. } = relations {
            checks::temperature("target.relations.temperature", temperature)?;
        }
        let is_own = positives == PositivesKey::Own;
        let positives = match positives {
            PositivesKey::Own => Positives::Own,
            PositivesKey::NearestNeighbor => Positives::NearestNeighbor,
            PositivesKey::Labels => Positives::Labels,
        };
        match coefficient {
            CoefficientValue::Scheduled(coefficient) => self.scheduled(positives, coefficient),
            CoefficientValue::Rule(CoefficientRule::Refinery { strength, predictions }) => {
                checks::weight("target.coefficient.strength", strength)?;
                match relations {
                    RelationsTable::Softmax { temperature, over: Over::Others } if is_own => {
                        Ok(Target::Refined { temperature, strength, predictions })
                    }
                    _ => Err(ParameterError::new(
                        "target.coefficient.rule",
                        &"refinery",
                        "the refinery needs target.relations of kind \"softmax\" over all others, \
                         and the own positives",
                    )),
                }
            }
            CoefficientValue::Rule(CoefficientRule::Entropy { strength }) => {
                checks::weight("target.coefficient.strength", strength)?;
                match relations {
                    RelationsTable::Softmax { temperature, over: Over::Others } => {
                        Ok(Target::Confident { positives, temperature, strength })
                    }
                    _ => Err(ParameterError::new(
                        "target.coefficient.rule",
                        &"entropy",
                        "the entropy is that of target.relations of kind \"softmax\" over all \
                         others",
                    )),
                }
            }
            CoefficientValue::Rule(CoefficientRule::Count) => match (relations, self.picks()) {
                (RelationsTable::Selected | RelationsTable::Labels, Some(picks)) if is_own => {
                    Ok(Target::Counted(picks))
                }
                (RelationsTable::Selected, None) if is_own => {
                    Err(ParameterError::new("target.relations", &"selected", NOTHING_SELECTED))
                }
                _ => Err(ParameterError::new(
                    "target.coefficient.rule",
                    &"count",
                    "there is something to count where target.relations are \"selected\" or \
                     \"labels\" and positives are the own",
                )),
            },
        }
    }

    /// A target with the same coefficient for all anchors.
    fn scheduled(
        &self,
        positives: Positives,
        coefficient: Scheduled,
    ) -> Result<Target, ParameterError> {
        checks::fraction("target.coefficient", coefficient)?;
        let ends = coefficient.ends();
        let is_one = ends == [1.0; 2];
        let value = ends.map(|end| end.to_string()).join(" to ");
        let picks = || {
            self.picks().ok_or_else(|| {
                ParameterError::new("target.relations", &"selected", NOTHING_SELECTED)
            })
        };
        let relations = match self.target.relations {
            RelationsTable::None => {
                let reason = "without target.relations there is nothing for the rest of the weight";
                require(is_one, "target.coefficient", &value, reason)?;
                return Ok(Target::Positives(positives));
            }
            _ if is_one => {
                let reason = "it leaves no weight for target.relations: give a smaller one";
                return Err(ParameterError::new("target.coefficient", &"1", reason));
            }
            RelationsTable::Softmax { temperature, over: Over::Others } => {
                Relations::Softmax { temperature }
            }
            RelationsTable::Softmax { temperature, over: Over::Selected } => {
                Relations::SoftmaxOfPicked { temperature, picks: picks()? }
            }
            RelationsTable::Selected | RelationsTable::Labels => Relations::Picked(picks()?),
            RelationsTable::NearestNeighbor => Relations::NearestNeighbor,
        };
        Ok(Target::Mixed { positives, relations, coefficient })
    }

    fn denominator(&self) -> Result<Competitors, ParameterError> {
        match self.denominator {
            DenominatorKey::All => Ok(Competitors::All),
            DenominatorKey::Negatives => Ok(Competitors::Negatives),
            DenominatorKey::Nothing => Ok(Competitors::Nothing),
            DenominatorKey::WithoutSelected => {
                let (key, value) = ("denominator", "without_selected");
                let picks = self.picks();
                let picks =
                    picks.ok_or_else(|| ParameterError::new(key, &value, NOTHING_SELECTED))?;
                let fits = self.target.positives != PositivesKey::NearestNeighbor;
                require(fits, key, value, "the positive itself would leave the denominator")?;
                Ok(Competitors::WithoutPicked(picks))
            }
        }
    }

    /// Refuses a selection that nothing looks at.
    fn check_selection(&self) -> Result<(), ParameterError> {
        let Some(selection) = self.selection else { return Ok(()) };
        selection.check("selection.")?;
        let relations = self.target.relations;
        let is_used = matches!(
            relations,
            RelationsTable::Selected | RelationsTable::Softmax { over: Over::Selected, .. }
        ) || self.denominator == DenominatorKey::WithoutSelected;
        let reason = "neither target.relations nor the denominator look at it: remove it";
        require(is_used, "selection", "set", reason)?;
        let fits = relations != RelationsTable::Labels;
        require(fits, "selection", "set", "labels select here: remove it")
    }

    /// Whether anything looks at the teacher's similarities.
    fn asks_teacher(&self) -> bool {
        let TargetTable { positives, relations, .. } = self.target;
        positives == PositivesKey::NearestNeighbor
            || self.selection.is_some()
            || !matches!(relations, RelationsTable::None | RelationsTable::Labels)
    }

    fn teacher(&self) -> Result<Teacher, ParameterError> {
        let is_support = self.teacher == TeacherKey::Support;
        let reason = "teacher = \"support\" and support_views > 0 go together";
        let views = self.support_views.to_string();
        require(is_support == (self.support_views > 0), "support_views", &views, reason)?;
        if !self.asks_teacher() {
            let reason = "nothing asks the teacher: leave it out";
            require(!is_support, "teacher", "support", reason)?;
            return Ok(Teacher::None);
        }
        Ok(match self.teacher {
            TeacherKey::Momentum => Teacher::Momentum,
            TeacherKey::Online => Teacher::Online,
            TeacherKey::Support => {
                Teacher::Support { views: self.support_views, aggregation: self.aggregation }
            }
        })
    }

    fn anchors(&self) -> Result<Anchors, ParameterError> {
        let is_among_views = self.candidates == CandidatesKey::Views;
        let reason = "it says which views make keys, and candidates = \"views\" has none";
        require(!(is_among_views && self.symmetric), "symmetric", "true", reason)?;
        let needs_keys = matches!(
            self.target.coefficient,
            CoefficientValue::Rule(CoefficientRule::Refinery { .. })
        );
        let reason = "the refinery needs keys: set candidates to \"queue\" or \"keys_and_queue\"";
        require(!(is_among_views && needs_keys), "target.coefficient.rule", "refinery", reason)?;
        let pairing = Pairing::from_keys(self.symmetric, self.global_views);
        match (self.mixup, self.candidates) {
            (Some(mixup), _) => Ok(Anchors::MixedAgainstKeys(self.mixed(mixup)?)),
            (None, CandidatesKey::Views) => Ok(Anchors::AmongViews),
            (None, CandidatesKey::Queue) => Ok(Anchors::AgainstQueue(pairing)),
            (None, CandidatesKey::KeysAndQueue) => Ok(Anchors::AgainstKeys(pairing)),
        }
    }

    fn mixed(&self, table: MixupTable) -> Result<Mixup, ParameterError> {
        let MixupTable { kind, weight, concentration, per, larger_share } = table;
        checks::positive_fraction("mixup.weight", weight)?;
        let mixing = Mixing { concentration, per, larger_share };
        mixing.check("mixup.concentration")?;
        let fits = self.candidates == CandidatesKey::KeysAndQueue && !self.symmetric;
        let reason = "mixed anchors need shared candidates: set candidates = \"keys_and_queue\" \
                      and symmetric = false";
        require(fits, "mixup", "set", reason)?;
        let fits = self.denominator == DenominatorKey::All && self.teacher == TeacherKey::Momentum;
        let reason = "mixed anchors need denominator = \"all\" and teacher = \"momentum\"";
        require(fits, "mixup", "set", reason)?;
        let other = match kind {
            MixupKind::Momentum => 0,
            MixupKind::Vanilla => 1,
        };
        Ok(Mixup { input: MixedInput { base: 1, other, mixing }, weight })
    }
}
