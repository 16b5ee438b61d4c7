//! What a finished run says when its encoder is not worth its training.

use std::fmt::{self, Display, Formatter};

/// A result below a baseline, and what usually causes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One sentence without a full stop.
    pub finding: String,
    /// What the run shows of the usual reasons, the most telling first.
    pub reasons: Vec<String>,
}

/// The finding, and below it one line per reason.
impl Display for Verdict {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}. Likely reasons:", self.finding)?;
        self.reasons.iter().try_for_each(|reason| write!(formatter, "\n- {reason}"))
    }
}
