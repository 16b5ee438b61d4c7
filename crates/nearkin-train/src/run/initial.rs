//! The weights that a run begins with, where they are not drawn: a backbone from elsewhere.
//!
//! A run that is interrupted before its first checkpoint begins again, and has to begin with the same
//! weights even if the file they came from is gone. So they are kept in the run's folder.

use std::path::Path;

use nearkin_model::{BACKBONE, Report, load_backbone};

use super::Run;
use crate::TrainError;
use crate::tensors::save_tensors;

/// The file in the run's folder.
const INITIAL: &str = "initial.safetensors";

impl Run {
    /// Takes the backbone of a new run from a safetensors file (see [`load_backbone`]), for the
    /// momentum encoder too; every process reads it. Projector and predictor stay as they were drawn.
    pub fn start_from(&mut self, weights: &Path) -> Result<Report, TrainError> {
        let report = self.load_start(weights)?;
        if self.learner.world.rank() > 0 {
            return Ok(report);
        }
        let backbone = self.learner.online.parameters().named().into_iter();
        let backbone = backbone.filter(|(name, _)| name.starts_with(BACKBONE));
        save_tensors(&self.folder.path().join(INITIAL), backbone)?;
        Ok(report)
    }

    /// The same for a run that begins again, if it began so.
    pub(super) fn start_as_begun(&mut self) -> Result<(), TrainError> {
        let kept = self.folder.path().join(INITIAL);
        if kept.exists() {
            self.load_start(&kept)?;
        }
        Ok(())
    }

    fn load_start(&mut self, weights: &Path) -> Result<Report, TrainError> {
        let report = load_backbone(weights, &self.learner.online)?;
        if let Some(teacher) = &mut self.learner.teacher {
            teacher.restart(&self.learner.online)?;
        }
        Ok(report)
    }
}
