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
//! [`refinery`]), and one short file per method that makes the three choices ([`methods`]).
//!
//! A method registers itself: a file in `src/methods/` and its card beside it are all that it takes
//! to add one. A method can also live in another crate, which implements [`PairMethod`],
//! [`ViewMethod`] or [`Method`].
//!
//! ```
//! use nearkin_objective::{Embedding, Encoded, evaluate, from_table, unit_rows};
//! use tch::{Kind, Tensor};
//!
//! let sce = from_table(&"name = \"sce\"\ncoefficient = 0.5".parse()?)?.method;
//! let rows = |count| unit_rows(&Tensor::randn([count, 16], (Kind::Float, tch::Device::Cpu)));
//! let queries = Tensor::randn([8, 16], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
//! let encoded = Encoded {
//!     online: vec![None, Some(Embedding::single(unit_rows(&queries)?))],
//!     keys: vec![Some(Embedding::single(rows(8)?)), None],
//!     queue: Some(rows(32)?),
//!     ..Encoded::default()
//! };
//! let loss = evaluate(&sce.terms(&encoded)?)?.loss;
//! loss.backward();
//! assert_eq!(queries.grad().size(), [8, 16]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candidates;
mod card;
mod checks;
mod choice;
mod encoded;
mod evaluate;
mod formula;
mod labels;
mod measures;
mod method;
pub mod methods {
    //! One file per method, with its card as documentation; every file here is part of the crate.
    automod::dir!(pub "src/methods");
}
mod mixup;
pub mod refinery;
mod registry;
mod requirements;
mod schedule;
pub mod selection;
pub mod target;
mod term;

pub use candidates::{AnchorBlock, Candidates, Origin, Shared};
pub use card::Card;
pub use checks::ParameterError;
pub use choice::Choice;
pub use encoded::{Embedding, Encoded, Frame, Mixed};
pub use evaluate::{Evaluated, evaluate, evaluate_and_measure};
pub use formula::{Denominator, Estimated, soft_cross_entropy, unit_rows};
/// What a method of another crate registers itself with.
pub use inventory;
pub use labels::Labels;
pub use measures::Measures;
pub use method::{
    AnchorView, Keys, Method, Pair, PairMethod, Pairing, Pairs, Reduction, ViewMethod, ViewPair,
    Views,
};
pub use mixup::mix;
pub use registry::{Configured, Define, Entry, MethodError, find, from_table, methods};
pub use requirements::{KeyEncoder, MixedInput, Mixing, Per, QueueUse, Requirements, Role};
pub use schedule::{Progress, Scheduled, Shape, Varying};
pub use term::{Mixture, Rule, Term};
