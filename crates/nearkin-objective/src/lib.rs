//! Soft-contrastive objectives as choices within one formula.
//!
//! Contrastive learning pulls two views of an image together and pushes every other image away,
//! although many of those are the same kind of thing. The remedies in the literature look unlike
//! one another, but for an anchor `i` with logits `a_ic = <anchor_i, candidate_c> / temperature`
//! they all are
//!
//! ```text
//! L_i = - sum_c sg[t_ic] ( a_ic - LSE_{c' in D_i} a_ic' )        dL_i/da_ic = m_i p_ic [c in D_i] - t_ic
//! ```
//!
//! and differ only in the candidates, the target `t` (with row sum `m_i`) and the denominator `D`.
//! So this crate holds that formula once ([`soft_cross_entropy`] defines it, [`evaluate`] computes
//! it in bounded memory), the target rules that methods share ([`target`], [`selection`],
//! [`refinery`]), and one short file per method that makes the three choices ([`Method`]).
//!
//! A method registers itself: a file in `src/methods/` is all that it takes to add one.

mod candidates;
mod checks;
mod evaluate;
mod formula;
mod measures;
mod method;
mod mixup;
mod methods {
    //! One file per method; every file here is part of the crate.
    automod::dir!("src/methods");
}
pub mod refinery;
mod registry;
mod schedule;
pub mod selection;
pub mod target;
mod term;

pub use candidates::{Candidates, Origin, Rows, Shared};
pub use checks::ParameterError;
pub use evaluate::{Evaluated, evaluate, evaluate_and_measure};
pub use formula::{Denominator, Estimated, soft_cross_entropy, unit_rows};
pub use measures::{Labels, Measures};
pub use method::{Embedding, Encoded, Method, Mixed, MixedInput, Mixing, Per, QueueUse, Role};
pub use mixup::mix;
pub use registry::{Card, Entry, MethodError, find, from_table, methods};
pub use schedule::{Progress, Scheduled, Shape, Varying};
pub use term::{Choice, Mixture, Rule, Term};
