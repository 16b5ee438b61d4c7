//! Semi-supervised evaluation: the whole network, fine-tuned with the labels of a few images.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use nearkin_data::{ImageSet, Subset, labelled};
use nearkin_eval::check_labels;

use crate::fine_tune::FineTune;
use crate::sets::{balanced_share, labels, named};
use crate::views::{Augmentation, TestView};
use crate::{Machine, ProbeError, Score, Subject};

/// How the network is fine-tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SemiPreset {
    /// FNC's settings, which are SimCLR v2's: LARS, from the first layer of the projector.
    Fnc,
    /// SGD with Nesterov's momentum from the backbone, as for any pretrained network.
    Plain,
}

impl fmt::Display for SemiPreset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fnc => "fnc",
            Self::Plain => "plain",
        })
    }
}

impl FromStr for SemiPreset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fnc" => Ok(Self::Fnc),
            "plain" => Ok(Self::Plain),
            _ => Err(format!("{text:?} is no preset: write fnc or plain")),
        }
    }
}

/// Which images keep their labels.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// This share of every class, drawn with the seed.
    Share(f64),
    /// Those that a file names, one file name per line.
    List(PathBuf),
}

/// A semi-supervised evaluation.
#[derive(Clone, Debug)]
pub struct SemiOptions {
    /// How the network is fine-tuned.
    pub preset: SemiPreset,
    /// Which images keep their labels.
    pub labels: Labels,
    /// Passes over these images, if not 60 (for at most 2 % of the images) or 30.
    pub epochs: Option<u64>,
    /// Images of a step, if not those of the preset.
    pub batch_size: Option<NonZeroUsize>,
    /// From which the images, their order and crops follow.
    pub seed: u64,
}

/// Up to this share of the images the network is trained for the longer time.
const FEW: f64 = 0.02;

/// Fine-tunes a copy of the network with some labels of `train`, and tests it once on `test`.
pub fn semi(
    subject: &Subject,
    sets: [&Arc<dyn ImageSet>; 2],
    options: &SemiOptions,
    machine: Machine,
) -> Result<Vec<Score>, ProbeError> {
    train_and_test(subject, sets, options, machine).map_err(|error| subject.blame(error))
}

fn train_and_test(
    subject: &Subject,
    [train, test]: [&Arc<dyn ImageSet>; 2],
    options: &SemiOptions,
    machine: Machine,
) -> Result<Vec<Score>, ProbeError> {
    check_labels(&**train, &**test)?;
    let [train, test] = [labelled(train), labelled(test)];
    let (places, which, what) = match &options.labels {
        Labels::Share(share) => {
            let places = balanced_share(&labels(&*train), *share, options.seed);
            let percent = format!("{} %", 100.0 * share);
            (places, format!("{percent} of the labels, balanced over classes"), percent)
        }
        Labels::List(list) => {
            let file = list.file_name().unwrap_or(list.as_os_str()).to_string_lossy();
            (named(&*train, list)?, format!("the labels listed in {file}"), file.into_owned())
        }
    };
    let few = places.len() as f64 <= FEW * train.len() as f64;
    let published_epochs = if few { 60 } else { 30 };
    let chosen: Arc<dyn ImageSet> = Arc::new(Subset::of(Arc::clone(&train), places));
    if chosen.len() < 2 {
        return Err(ProbeError::Request(
            "one labelled image is too few to fine-tune with: batch norm needs at least 2".into(),
        ));
    }
    let (optimizer, published_batch_size) = match options.preset {
        SemiPreset::Fnc => (FineTune::lars()?, const { NonZeroUsize::new(1024).unwrap() }),
        SemiPreset::Plain => (FineTune::sgd()?, const { NonZeroUsize::new(256).unwrap() }),
    };
    let through_projector = options.preset == SemiPreset::Fnc;
    let tuning = FineTune {
        optimizer,
        through_projector,
        augmentation: match options.preset {
            SemiPreset::Fnc => Augmentation::ResizedCropAndFlip(0.2),
            SemiPreset::Plain => Augmentation::CropAndFlip,
        },
        test: match options.preset {
            SemiPreset::Fnc => TestView::ResizeAndCrop,
            SemiPreset::Plain => TestView::Recipe,
        },
        epochs: options.epochs.unwrap_or(published_epochs),
        published_epochs,
        batch_size: options.batch_size.unwrap_or(published_batch_size),
        published_batch_size,
        seed: options.seed,
    };
    let (accuracies, how) = tuning.run(subject, [&chosen, &test], machine)?;
    let definition = format!("semi-supervised {}, {which}, {how}", options.preset);
    Ok(accuracies.scores(&format!("semi {} {what}", options.preset), &definition))
}
