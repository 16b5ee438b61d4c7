//! `evaluation.json` and `evaluation.md`: what was measured, kept so that a later evaluation adds to it.
//!
//! A result belongs to a checkpoint, known by its step and the digest of its weights. Evaluating one
//! protocol leaves the results of all others in place; the same protocol with other options stands
//! beside them.

use std::io::Write;
use std::path::{Path, PathBuf};

use nearkin_report::write_atomically;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::summary::{Summary, to_markdown};
use crate::{ProbeError, Score};

/// The scores of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluation {
    /// Run folder or file.
    pub subject: String,
    /// Steps of training, if known.
    pub step: Option<u64>,
    /// SHA-256 of the file of weights. Empty where it was not recorded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub weights: String,
    /// Seed of the training.
    pub training_seed: u64,
    /// Images of the training, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_images: Option<usize>,
    /// Digest of the names of these images, unless the seed chose among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_data: Option<String>,
    /// Images that could not be read and count nowhere, of all sets together.
    pub images_left_out: usize,
    /// What was measured.
    pub scores: Vec<Score>,
    /// The keys of the recipe by which the encoder was trained, see
    /// [`Recipe::keys_of_training`](nearkin_recipe::Recipe::keys_of_training). Empty for a file of
    /// weights, and where it was not recorded.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub recipe: Map<String, Value>,
}

impl Evaluation {
    /// Adds scores. One that was measured by the same protocol, with the same settings or by the same
    /// definition, is replaced.
    pub fn add(&mut self, scores: &[Score]) {
        for new in scores {
            let same = |old: &&mut Score| {
                let alike = (&old.protocol, &old.metric) == (&new.protocol, &new.metric);
                let settings = !new.settings.is_empty() && old.settings == new.settings;
                alike && (settings || old.definition == new.definition)
            };
            match self.scores.iter_mut().find(same) {
                Some(old) => old.clone_from(new),
                None => self.scores.push(new.clone()),
            }
        }
    }

    /// Whether both are of the same weights; earlier versions recorded the step only.
    fn is_of_the_weights_of(&self, other: &Self) -> bool {
        let [one, two] = [&self.weights, &other.weights];
        self.step == other.step && (one == two || one.is_empty() || two.is_empty())
    }

    fn is_of_the_subject_of(&self, other: &Self) -> bool {
        let place = |of: &Self| std::fs::canonicalize(&of.subject).ok();
        self.subject == other.subject || place(self).is_some_and(|own| place(other) == Some(own))
    }
}

/// A folder with `evaluation.json` and `evaluation.md`.
#[derive(Clone, Debug)]
pub struct ResultsFolder {
    path: PathBuf,
    is_of_one_run: bool,
}

impl ResultsFolder {
    /// The folder of a run, which holds the results of its checkpoints.
    pub fn of_run(path: &Path) -> Self {
        Self { path: path.to_owned(), is_of_one_run: true }
    }

    /// A folder with the results of any subjects.
    pub fn of_several(path: &Path) -> Self {
        Self { path: path.to_owned(), is_of_one_run: false }
    }

    fn json(&self) -> PathBuf {
        self.path.join("evaluation.json")
    }

    /// Everything that is there; nothing without a file.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Results`] for a file that is not one of these.
    pub fn read(&self) -> Result<Vec<Evaluation>, ProbeError> {
        let path = self.json();
        let wrong = |problem: String| ProbeError::Results { path: path.clone(), problem };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let mut file: Value =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let evaluations = file.get_mut("evaluations").map(Value::take);
        let mut evaluations =
            evaluations.ok_or_else(|| wrong("it has no \"evaluations\"".to_owned()))?;
        // A number that is not finite was written as null.
        for evaluation in evaluations.as_array_mut().into_iter().flatten() {
            if let Some(Value::Array(scores)) = evaluation.get_mut("scores") {
                scores.retain(|score| score["value"].is_number());
            }
        }
        serde_json::from_value(evaluations).map_err(|error| wrong(error.to_string()))
    }

    /// The scores that are there of the weights of this evaluation.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn known(&self, evaluation: &Evaluation) -> Result<Vec<Score>, ProbeError> {
        let own = |known: &Evaluation| {
            self.is_about(known, evaluation) && known.is_of_the_weights_of(evaluation)
        };
        let known = self.read()?.into_iter().filter(own);
        Ok(known.flat_map(|evaluation| evaluation.scores).collect())
    }

    fn is_about(&self, known: &Evaluation, evaluation: &Evaluation) -> bool {
        self.is_of_one_run || known.is_of_the_subject_of(evaluation)
    }

    /// Adds an evaluation to what is there, and writes both files. Results of other weights of the same
    /// subject and step are dropped: it was trained anew.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read), and [`ProbeError::Report`] for files that cannot be written.
    pub fn add(&self, evaluation: &Evaluation) -> Result<(), ProbeError> {
        let mut all = self.read()?;
        all.retain(|known| {
            !self.is_about(known, evaluation)
                || known.step != evaluation.step
                || known.is_of_the_weights_of(evaluation)
        });
        let same = |known: &&mut Evaluation| {
            self.is_about(known, evaluation) && known.is_of_the_weights_of(evaluation)
        };
        match all.iter_mut().find(same) {
            Some(known) => {
                let scores = std::mem::take(&mut known.scores);
                let left_out = known.images_left_out.max(evaluation.images_left_out);
                *known = Evaluation { scores, images_left_out: left_out, ..evaluation.clone() };
                known.add(&evaluation.scores);
            }
            None => all.push(evaluation.clone()),
        }
        let files = [("json", results_json(&all)), ("md", to_markdown(&all))];
        for (end, text) in files {
            let path = self.path.join(format!("evaluation.{end}"));
            write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

/// Evaluations with their summary, as `evaluation.json` has them.
pub fn results_json(evaluations: &[Evaluation]) -> String {
    let Summary { groups, lines } = Summary::new(evaluations);
    let all = json!({ "evaluations": evaluations, "groups": groups, "summary": lines });
    format!("{all:#}\n")
}
