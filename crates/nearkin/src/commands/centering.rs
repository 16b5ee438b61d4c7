//! Whether features are compared relative to the mean of their set.

use clap::Args;
use nearkin_embed::{Center, EmbedError, FEWEST_CENTERED, Features, Vectors};

use crate::output::say;

#[derive(Args)]
pub(crate) struct Centering {
    /// Compare features as they are, without taking the mean of FEATURES out of them.
    #[arg(long)]
    no_center: bool,
}

/// The mean that is taken out of features, if one is.
pub(super) struct Chosen(Option<Center>);

impl Centering {
    /// What to take out of these features and of queries to them.
    pub(super) fn choose(&self, features: &Features) -> Chosen {
        if self.no_center {
            return Chosen(None);
        }
        let images = features.vectors.len();
        if images < FEWEST_CENTERED {
            say(&format!(
                "note: {images} images are too few to be centered, so features are compared as they are"
            ));
            return Chosen(None);
        }
        Chosen(Some(features.center.clone()))
    }
}

impl Chosen {
    /// Unit rows whose inner products are the similarities.
    pub(super) fn apply(&self, vectors: Vectors) -> Result<Vectors, EmbedError> {
        match &self.0 {
            Some(center) => vectors.into_centered(center),
            None => Ok(vectors.into_unit()),
        }
    }

    /// The name of the similarity.
    pub(super) fn measure(&self) -> &'static str {
        if self.0.is_some() { "centered cosine" } else { "cosine" }
    }
}
