//! The way from a case's embeddings to a loss: the same as in training, through a method's terms.

use nearkin_objective::{
    Embedding, Encoded, Method, Term, evaluate, from_table, soft_cross_entropy, unit_rows,
};
use tch::{Kind, Tensor};
use toml::Value;

use super::case::Failure;

/// A method by name, with these hyper-parameters and its defaults for the others.
pub(crate) fn method(
    name: &str,
    parameters: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<Box<dyn Method>, Failure> {
    let parameters = parameters.into_iter().map(|(key, value)| (key.to_owned(), value));
    let name = std::iter::once(("name".to_owned(), Value::from(name)));
    Ok(from_table(&name.chain(parameters).collect())?.method)
}

/// Embeddings of the only process.
pub(crate) fn alone(rows: Tensor) -> Embedding {
    Embedding::single(rows)
}

/// Unit rows of raw ones, or the rows themselves.
pub(crate) fn rows(raw: &Tensor, normalise: bool) -> Result<Tensor, Failure> {
    Ok(if normalise { unit_rows(raw)? } else { raw.shallow_clone() })
}

/// Queries of view 1 and keys of view 0.
pub(crate) fn queries_and_keys(queries: Tensor, keys: Tensor, queue: Option<Tensor>) -> Encoded {
    Encoded {
        online: vec![None, Some(alone(queries))],
        keys: vec![Some(alone(keys)), None],
        queue,
        ..Encoded::default()
    }
}

/// Every raw view through the online encoder.
pub(crate) fn online(views: &[Tensor]) -> Result<Encoded, Failure> {
    let online = views.iter().map(|view| Ok(Some(alone(unit_rows(view)?))));
    Ok(Encoded {
        online: online.collect::<Result<_, Failure>>()?,
        keys: views.iter().map(|_| None).collect(),
        ..Encoded::default()
    })
}

/// A batch whose queries have these similarities to the keys, `[anchors, keys]`, and whose teacher
/// has those.
///
/// The keys are the unit vectors, so a row of similarities is itself the embedding that has them.
pub(crate) fn of_similarities(queries: &Tensor, teacher: &Tensor) -> Result<Encoded, Failure> {
    let keys = unit_vectors(queries)?;
    let teacher = Embedding { local: teacher.shallow_clone(), gathered: keys };
    Ok(Encoded {
        online: vec![None, Some(alone(queries.shallow_clone()))],
        keys: vec![Some(teacher), None],
        ..Encoded::default()
    })
}

/// As many unit vectors as a matrix has columns.
pub(crate) fn unit_vectors(like: &Tensor) -> Result<Tensor, Failure> {
    let columns = like.size().last().copied().unwrap_or(0);
    Ok(Tensor::f_eye(columns, (like.kind(), like.device()))?)
}

/// The loss of a method's terms.
pub(crate) fn loss(method: &dyn Method, encoded: &Encoded) -> Result<Tensor, Failure> {
    Ok(evaluate(&method.terms(encoded)?)?.loss)
}

/// One of a method's terms, with weight 1.
pub(crate) fn term<'a>(
    method: &'a dyn Method,
    encoded: &'a Encoded,
    number: usize,
) -> Result<Term<'a>, Failure> {
    let term = method.terms(encoded)?.into_iter().nth(number);
    let term = term.ok_or_else(|| Failure::Missing(format!("term {number} of the method")))?;
    Ok(term.weighing(1.0))
}

/// The loss of one term.
pub(crate) fn loss_of(term: Term<'_>) -> Result<Tensor, Failure> {
    Ok(evaluate(&[term])?.loss)
}

/// Logits of a term, `[anchors, candidates]`.
pub(crate) fn logits(term: &Term<'_>) -> Result<Tensor, Failure> {
    Ok(term.similarities()?.f_div_scalar(term.temperature)?)
}

/// The loss of each anchor, `[anchors]`.
pub(crate) fn per_anchor(term: &Term<'_>) -> Result<Tensor, Failure> {
    let choice = term.choice()?;
    match choice.value {
        Some(value) => Ok(value),
        None => Ok(soft_cross_entropy(&logits(term)?, &choice.target, &choice.denominator)?),
    }
}

/// The loss of each anchor of all terms, one term after the other.
pub(crate) fn per_anchors(method: &dyn Method, encoded: &Encoded) -> Result<Tensor, Failure> {
    let terms = method.terms(encoded)?;
    let parts = terms.iter().map(per_anchor).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// What a term's anchors would be compared by if another rule chose their target.
pub(crate) fn target_by<'a>(
    term: Term<'a>,
    rule: nearkin_objective::Rule<'a>,
) -> Result<Tensor, Failure> {
    Ok(Term { rule, ..term }.choice()?.target)
}

/// The views of a tensor `[views, batch, dimensions]`, each a leaf that gathers a gradient.
pub(crate) fn leaves(views: &Tensor) -> Result<Vec<Tensor>, Failure> {
    let views = views.f_unbind(0)?.into_iter();
    views.map(|view| Ok(view.f_alias_copy()?.f_set_requires_grad(true)?)).collect()
}

/// The gradients of a loss by several leaves of one shape, stacked.
pub(crate) fn gradients(loss: &Tensor, leaves: &[Tensor]) -> Result<Tensor, Failure> {
    let of = |leaf: &Tensor| super::check::gradient(loss, leaf);
    Ok(Tensor::f_stack(&leaves.iter().map(of).collect::<Result<Vec<_>, Failure>>()?, 0)?)
}

/// The mean over anchors.
pub(crate) fn mean(per_anchor: &Tensor) -> Result<Tensor, Failure> {
    Ok(per_anchor.f_mean(None::<Kind>)?)
}
