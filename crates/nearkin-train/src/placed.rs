//! Where the views of training are made, and where the images are that they are made of.
//!
//! The best place follows from the recipe, the device and the set: on a GPU whatever can run there
//! does; where all images have one size they stay there for good if they fit, and travel whole if that
//! is less than what the host would make of them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::{Batch, View, Whole};
use nearkin_data::ImageSet;
use nearkin_model::{HeldImages, HoldError, bytes_of, bytes_to_tensor};
use nearkin_torch::free_bytes;
use tch::{Device, TchError, Tensor};

use crate::{Setup, TrainError};

/// Images may take this part of a GPU's free memory; activations need the rest.
const SHARE: u64 = 4;

/// The views of a run, ready for its device.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) views: Arc<[View]>,
    held: Option<HeldImages>,
    device: Device,
}

impl Placed {
    /// Moves the images to the device where that is their place; `workers` threads read them.
    pub(crate) fn new(
        setup: &Setup,
        train: &dyn ImageSet,
        device: Device,
        workers: usize,
    ) -> Result<Self, TrainError> {
        let placed = |whole: Option<Whole>, held: Option<HeldImages>| {
            let views = setup.recipe.augment.place(&setup.views, device.is_cuda(), whole)?.into();
            Ok(Self { views, held, device })
        };
        let Some((width, height)) = train.one_size() else { return placed(None, None) };
        let whole = Whole { width, height, held: true };
        let all_there = placed(Some(whole), None)?;
        if all_there.views.iter().all(|view| view.whole().is_none()) {
            return Ok(all_there);
        }
        let bytes = bytes_of(train, (width, height));
        if free_bytes(device)?.is_none_or(|free| bytes <= free / SHARE) {
            let threads = NonZeroUsize::new(workers + 1).unwrap_or(NonZeroUsize::MIN);
            match HeldImages::read(train, (width, height), device, threads) {
                Ok(held) => return Ok(Self { held: Some(held), ..all_there }),
                Err(HoldError::Tensor(error)) => return Err(error.into()),
                // The loader passes over damaged images; a set that is held has none.
                Err(_) => {}
            }
        }
        let made_by_the_host: usize = all_there.views.iter().map(View::values).sum();
        let travels = width * height * 3 <= made_by_the_host;
        placed(travels.then_some(Whole { held: false, ..whole }), None)
    }

    /// Whether the device holds the images.
    pub(crate) fn holds_images(&self) -> bool {
        self.held.is_some()
    }

    /// The whole images of a batch, `[images, height, width, 3]`, if a view begins with them.
    pub(crate) fn whole_images(&self, batch: &Batch) -> Result<Option<Tensor>, TchError> {
        if let Some(held) = &self.held {
            return held.select(&batch.images).map(Some);
        }
        let whole = self.views.iter().find_map(View::whole);
        let sent = |Whole { width, height, .. }| {
            bytes_to_tensor(&batch.whole, (width, height), self.device)
        };
        whole.map(sent).transpose()
    }
}
