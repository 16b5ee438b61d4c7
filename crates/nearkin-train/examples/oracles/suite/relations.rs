//! What must hold between methods: limits and identities, both sides computed here.
//!
//! These cases have no inputs, so the name says which identity is meant; the inputs are those of the
//! published values, small and made by hand.

use nearkin_objective::refinery::{Predictions, Refined, refine};
use nearkin_objective::{Denominator, Encoded, Method, soft_cross_entropy, target, unit_rows};
use tch::{Device, Kind, Tensor};
use toml::Value;

use super::case::Failure;
use super::check::{Check, gradient};
use super::sce::relations_only;
use super::through::{loss, mean, method, of_similarities, online, queries_and_keys, term};

const QUERIES: [[f64; 3]; 4] =
    [[1.0, 0.5, -0.25], [-0.5, 1.0, 0.75], [0.25, -1.0, 0.5], [0.8, 0.3, 1.2]];
const KEYS: [[f64; 3]; 4] = [[0.9, 0.6, -0.1], [-0.4, 0.8, 1.0], [0.5, -0.9, 0.2], [0.6, 0.1, 1.1]];
const QUEUE: [[f64; 3]; 5] =
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.5, 0.5, -1.0]];
/// Similarities of queries to keys, not symmetric.
const STUDENT: [[f64; 4]; 4] =
    [[0.9, 0.1, 0.0, -0.2], [0.2, 0.8, -0.1, 0.3], [0.0, 0.4, 0.7, 0.1], [-0.3, 0.2, 0.5, 0.6]];
/// Similarities of keys to one another.
const TEACHER: [[f64; 4]; 4] =
    [[1.0, 0.6, 0.2, -0.1], [0.6, 1.0, 0.1, 0.3], [0.2, 0.1, 1.0, 0.5], [-0.1, 0.3, 0.5, 1.0]];

/// How an identity is recognised by its name: all of these words are in it.
type Identity = (&'static [&'static str], fn(&mut Check<'_>) -> Result<(), Failure>);

/// The more special ones first.
const IDENTITIES: [Identity; 13] = [
    (&["slr", "sce target"], refinery_is_sce),
    (&["slr", "lam_i"], refinery_has_a_coefficient_per_sample),
    (&["sane", "mu=0"], refinery_without_strength),
    (&["sane", "inf"], refinery_of_infinite_strength),
    (&["sce", "neighbour"], sharpest_teacher),
    (&["sce", "ressl", "ceil"], sce_without_positive),
    (&["sce", "infonce"], sce_of_the_positive),
    (&["fnc", "official", "top-k"], more_than_there_are),
    (&["fnc", "official", "simclr"], official_without_false_negatives),
    (&["fnc", "elim", "empty"], |check| without_false_negatives(check, "eliminate")),
    (&["fnc", "empty"], |check| without_false_negatives(check, "attract")),
    (&["debiased", "nt-xent"], debiased_without_prior),
    (&["row sums"], row_sums),
];

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let name = check.case.name.to_lowercase();
    let identity =
        IDENTITIES.iter().find(|(words, _)| words.iter().all(|word| name.contains(word)));
    let Some((_, compute)) = identity else {
        return Err(Failure::Unknown("no identity of that name is known".to_owned()));
    };
    compute(check)
}

/// Both sides agree, and are the expected value.
fn sides(check: &mut Check<'_>, left: &Tensor, right: &Tensor) -> Result<(), Failure> {
    check.agree("one side of the identity", left, right)?;
    check.close("value", left)
}

fn given<const COLUMNS: usize>(
    check: &Check<'_>,
    rows: &[[f64; COLUMNS]],
) -> Result<Tensor, Failure> {
    let flat = Tensor::f_from_slice(rows.as_flattened())?;
    Ok(flat.f_view([rows.len() as i64, COLUMNS as i64])?.f_to_kind(check.kind)?)
}

fn largest_difference(one: &Tensor, other: &Tensor) -> Result<Tensor, Failure> {
    Ok(one.f_sub(other)?.f_abs()?.f_max()?)
}

fn zero(check: &Check<'_>) -> Result<Tensor, Failure> {
    Ok(Tensor::f_zeros([], (check.kind, Device::Cpu))?)
}

fn similarities(check: &Check<'_>) -> Result<Encoded, Failure> {
    of_similarities(&given(check, &STUDENT)?, &given(check, &TEACHER)?)
}

const TEMPERATURE: f64 = 0.1;
const SHARPENED: f64 = 0.05;

fn sce(temperature: f64, sharpened: f64, coefficient: f64) -> Result<Box<dyn Method>, Failure> {
    let parameters = [
        ("temperature", temperature.into()),
        ("temperature_momentum", sharpened.into()),
        ("coefficient", coefficient.into()),
        ("variant", "use_keys".into()),
    ];
    method("sce", parameters)
}

fn moco() -> Result<Box<dyn Method>, Failure> {
    let parameters = [("temperature", TEMPERATURE.into()), ("candidates", "keys_and_queue".into())];
    method("moco", parameters)
}

fn sce_of_the_positive(check: &mut Check<'_>) -> Result<(), Failure> {
    let encoded = similarities(check)?;
    let left = loss(&*sce(TEMPERATURE, SHARPENED, 1.0)?, &encoded)?;
    sides(check, &left, &loss(&*moco()?, &encoded)?)
}

fn sce_without_positive(check: &mut Check<'_>) -> Result<(), Failure> {
    let encoded = similarities(check)?;
    let left = loss(&*sce(TEMPERATURE, SHARPENED, 0.0)?, &encoded)?;
    let ressl = loss(&*relations_only(TEMPERATURE, SHARPENED)?, &encoded)?;
    // The same cross-entropy with and without the positive in the denominator.
    let logits = given(check, &STUDENT)?.f_div_scalar(TEMPERATURE)?;
    let one_hot = logits.f_zeros_like()?.f_fill_diagonal_(1.0, false)?;
    let own = one_hot.f_to_kind(Kind::Bool)?;
    let all = mean(&soft_cross_entropy(&logits, &one_hot, &Denominator::All)?)?;
    let negatives = mean(&soft_cross_entropy(&logits, &one_hot, &Denominator::Except(own))?)?;
    sides(check, &left, &ressl.f_add(&all)?.f_sub(&negatives)?)
}

fn sharpest_teacher(check: &mut Check<'_>) -> Result<(), Failure> {
    let left = loss(&*sce(TEMPERATURE, 1e-3, 0.5)?, &similarities(check)?)?;
    let logits = given(check, &STUDENT)?.f_div_scalar(TEMPERATURE)?;
    let others = given(check, &TEACHER)?.f_fill_diagonal_(f64::NEG_INFINITY, false)?;
    let one_hot = |places: &Tensor| target::uniform(places, logits.size()[1], check.kind);
    let own = one_hot(&target::diagonal(logits.size()[0], 0, &logits)?)?;
    let nearest = one_hot(&others.f_argmax(1, true)?)?;
    let target = target::mix(&own, &nearest, 0.5)?;
    sides(check, &left, &mean(&soft_cross_entropy(&logits, &target, &Denominator::All)?)?)
}

fn two_views(check: &Check<'_>) -> Result<Vec<Tensor>, Failure> {
    Ok(vec![given(check, &QUERIES)?, given(check, &KEYS)?])
}

fn simclr(reduction: &str) -> Result<Box<dyn Method>, Failure> {
    method("simclr", [("temperature", 0.5.into()), ("reduction", reduction.into())])
}

/// FNC without support views whose selection takes at most so many candidates above a threshold.
fn fnc(
    temperature: f64,
    [top_k, threshold]: [Value; 2],
    more: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<Box<dyn Method>, Failure> {
    let own = [
        ("temperature", temperature.into()),
        ("support_views", 0.into()),
        ("top_k", top_k),
        ("threshold", threshold),
    ];
    method("fnc", own.into_iter().chain(more))
}

/// No cosine is above 2.
fn nothing_selected() -> [Value; 2] {
    [0.into(), 2.0.into()]
}

fn without_false_negatives(check: &mut Check<'_>, treatment: &str) -> Result<(), Failure> {
    let encoded = online(&two_views(check)?)?;
    let fnc = fnc(0.5, nothing_selected(), [("false_negatives", treatment.into())])?;
    sides(check, &loss(&*fnc, &encoded)?, &loss(&*simclr("mean")?, &encoded)?)
}

fn as_the_authors() -> [(&'static str, Value); 2] {
    [("support", "anchors_too".into()), ("reduction", "sum_of_views".into())]
}

fn official_without_false_negatives(check: &mut Check<'_>) -> Result<(), Failure> {
    let encoded = online(&two_views(check)?)?;
    let fnc = fnc(0.5, nothing_selected(), as_the_authors())?;
    sides(check, &loss(&*fnc, &encoded)?, &loss(&*simclr("sum_of_views")?, &encoded)?)
}

fn more_than_there_are(check: &mut Check<'_>) -> Result<(), Failure> {
    let mut views = two_views(check)?;
    views.push(views[0].f_flip([0])?.f_mul_scalar(0.9)?.f_add_scalar(0.1)?);
    let encoded = online(&views)?;
    let of_other_images = (views.len() * (QUERIES.len() - 1)) as i64;
    let with = |top_k: i64| fnc(0.2, [top_k.into(), (-2.0).into()], as_the_authors());
    for term in with(50)?.terms(&encoded)? {
        let selected = term.choice()?.selected;
        let selected = selected.ok_or_else(|| Failure::Missing("selection".to_owned()))?;
        let counts = selected.f_sum_dim_intlist([1].as_slice(), false, Kind::Int64)?;
        let others = counts.f_full_like(of_other_images)?;
        check.agree("the number of selected candidates", &counts, &others)?;
    }
    sides(check, &loss(&*with(50)?, &encoded)?, &loss(&*with(of_other_images)?, &encoded)?)
}

fn debiased_without_prior(check: &mut Check<'_>) -> Result<(), Failure> {
    let encoded = online(&two_views(check)?)?;
    let debiased = method("debiased", [("temperature", 0.5.into()), ("class_prior", 0.0.into())])?;
    sides(check, &loss(&*debiased, &encoded)?, &loss(&*simclr("mean")?, &encoded)?)
}

/// Keys against the keys of the batch and the queue: labels and what they are refined from.
struct Refinery {
    encoded: Encoded,
    similarities: Tensor,
    positives: Tensor,
    one_hot: Tensor,
}

impl Refinery {
    fn new(check: &Check<'_>) -> Result<Self, Failure> {
        let keys = unit_rows(&given(check, &KEYS)?)?;
        let queue = unit_rows(&given(check, &QUEUE)?)?;
        let encoded = queries_and_keys(keys.shallow_clone(), keys, Some(queue));
        let similarities = term(&*moco()?, &encoded, 0)?.similarities()?;
        let positives = target::diagonal(similarities.size()[0], 0, &similarities)?;
        let one_hot = target::uniform(&positives, similarities.size()[1], check.kind)?;
        Ok(Self { encoded, similarities, positives, one_hot })
    }

    /// Temperature 0.2 times 0.8.
    fn refined(&self, strength: f64) -> Result<Refined, Failure> {
        let Self { similarities, positives, .. } = self;
        Ok(refine(similarities, positives, 0.2 * 0.8, strength, Predictions::Both)?)
    }

    /// The refined label that the method takes.
    fn label(&self, strength: f64) -> Result<Tensor, Failure> {
        let parameters = [
            ("temperature", 0.2.into()),
            ("sharpening", 0.8.into()),
            ("strength", strength.into()),
            ("mixup", "none".into()),
        ];
        Ok(term(&*method("sane", parameters)?, &self.encoded, 1)?.choice()?.target)
    }
}

fn refinery_without_strength(check: &mut Check<'_>) -> Result<(), Failure> {
    let refinery = Refinery::new(check)?;
    let difference = largest_difference(&refinery.label(0.0)?, &refinery.one_hot)?;
    let zero = zero(check)?;
    sides(check, &difference, &zero)
}

fn refinery_of_infinite_strength(check: &mut Check<'_>) -> Result<(), Failure> {
    let Refined { alpha, beta, .. } = Refinery::new(check)?.refined(1e9)?;
    let left = alpha.f_add(&beta)?.f_neg()?.f_add_scalar(1.0)?.f_max()?;
    // The limit is reached up to one over the strength.
    check.near("the weight of the label", &left, &Tensor::from(0.0), 1e-6)?;
    check.close("value", &left)
}

fn refinery_is_sce(check: &mut Check<'_>) -> Result<(), Failure> {
    let refinery = Refinery::new(check)?;
    let Refinery { similarities, positives, one_hot, encoded } = &refinery;
    let q = refine(similarities, positives, 0.2 * 0.35, 1.0, Predictions::Both)?.q;
    let refined = one_hot.f_add(&q)?.f_mul_scalar(0.5)?;
    let sce = term(&*sce(TEMPERATURE, 0.07, 0.5)?, encoded, 0)?.choice()?.target;
    let zero = zero(check)?;
    sides(check, &largest_difference(&refined, &sce)?, &zero)
}

fn refinery_has_a_coefficient_per_sample(check: &mut Check<'_>) -> Result<(), Failure> {
    let refinery = Refinery::new(check)?;
    let Refined { p, q, alpha, beta, .. } = refinery.refined(1.0)?;
    let of_own = p.f_gather(1, &refinery.positives, false)?;
    let others = of_own.f_neg()?.f_add_scalar(1.0)?;
    let coefficient = beta.f_add(&alpha.f_mul(&others)?)?.f_neg()?.f_add_scalar(1.0)?;
    let mixture = target::mix_each(&refinery.one_hot, &q, &coefficient)?;
    let zero = zero(check)?;
    sides(check, &largest_difference(&refinery.label(1.0)?, &mixture)?, &zero)?;
    check.close("lam_i", &coefficient.f_squeeze_dim(1)?)
}

fn row_sums(check: &mut Check<'_>) -> Result<(), Failure> {
    let student = given(check, &STUDENT)?.f_set_requires_grad(true)?;
    let encoded = of_similarities(&student, &given(check, &TEACHER)?)?;
    let loss = loss(&*sce(TEMPERATURE, 0.07, 0.3)?, &encoded)?;
    // By the logits of each anchor, not by the similarities of the mean.
    let scale = TEMPERATURE * STUDENT.len() as f64;
    let by_logits = gradient(&loss, &student)?.f_mul_scalar(scale)?;
    let sums = by_logits.f_sum_dim_intlist([1].as_slice(), false, None::<Kind>)?;
    let zero = zero(check)?;
    sides(check, &sums.f_abs()?.f_max()?, &zero)
}
