//! What a person sees while a run trains: a bar on a terminal, lines in a log, nothing when quiet.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::text;

/// How often a log gets a line, at most.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Where a run stands after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProgressState {
    /// Steps done, over the whole run.
    pub step: u64,
    /// The running epoch, counted from 1.
    pub epoch: u64,
    /// Loss, of the step or smoothed.
    pub loss: f64,
    /// The loss of an encoder that knows nothing, if the objective has such a value.
    pub reference_loss: Option<f64>,
    /// Images (not views) per second.
    pub images_per_second: f64,
    /// Share of time, in `[0, 1]`, spent waiting for the loader.
    pub data_wait_share: f64,
}

/// The progress of a run, shown on standard error.
///
/// The estimate of the time left is the mean pace since the first step that was shown, so it includes
/// evaluations and checkpoints on the way, but not what came before training.
#[derive(Debug)]
pub struct Progress {
    total_steps: u64,
    epochs: u64,
    done_steps: u64,
    /// A first step was shown; the clock and the steps count from there.
    running: bool,
    begun: Instant,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Bar(ProgressBar),
    Lines(Lines),
    Hidden,
}

impl Progress {
    /// A bar if standard error is a terminal; otherwise lines, at most one in ten seconds and one at
    /// the end of each epoch. `done_steps` were done before, by the run that this one continues.
    pub fn new(total_steps: u64, epochs: u64, done_steps: u64) -> Self {
        let bar = ProgressBar::new(total_steps)
            .with_position(done_steps)
            .with_finish(ProgressFinish::Abandon);
        let output = if bar.is_hidden() {
            Output::Lines(Lines::default())
        } else {
            let style = ProgressStyle::with_template("{prefix}  {bar:20}  {pos}/{len}  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            Output::Bar(bar)
        };
        Self { total_steps, epochs, done_steps, running: false, begun: Instant::now(), output }
    }

    /// Shows nothing, messages included: what `--quiet` asks for.
    pub fn hidden() -> Self {
        let output = Output::Hidden;
        Self {
            total_steps: 0,
            epochs: 0,
            done_steps: 0,
            running: false,
            begun: Instant::now(),
            output,
        }
    }

    /// Tells where the run stands; call it after every step, it is cheap.
    pub fn update(&mut self, state: &ProgressState) {
        if matches!(self.output, Output::Hidden) {
            return;
        }
        if !self.running {
            self.running = true;
            (self.begun, self.done_steps) = (Instant::now(), state.step);
        }
        let elapsed = self.begun.elapsed();
        let details = details(state, self.time_left(state.step, elapsed));
        let epoch = format!("epoch {}/{}", state.epoch, self.epochs);
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_prefix(epoch);
                bar.set_message(details);
                bar.set_position(state.step);
            }
            Output::Lines(lines) => {
                let line = format!("{epoch}  step {}/{}  {details}", state.step, self.total_steps);
                lines.update(state.epoch, line, elapsed).iter().for_each(|line| print_line(line));
            }
            Output::Hidden => {}
        }
    }

    /// Prints a line above the bar, or between the other lines.
    pub fn message(&self, line: &str) {
        match &self.output {
            Output::Bar(bar) => bar.println(line),
            Output::Lines(_) => print_line(line),
            Output::Hidden => {}
        }
    }

    /// Prints a line that has to be seen even where nothing else is shown.
    pub fn warning(&self, line: &str) {
        match &self.output {
            Output::Hidden => print_line(line),
            _ => self.message(line),
        }
    }

    /// Ends the display; the last state stays visible, also when the run stopped early.
    pub fn finish(mut self) {
        match &mut self.output {
            Output::Bar(bar) => bar.abandon(),
            Output::Lines(lines) => lines.finish().iter().for_each(|line| print_line(line)),
            Output::Hidden => {}
        }
    }

    fn time_left(&self, step: u64, elapsed: Duration) -> Option<f64> {
        let done_here = step.checked_sub(self.done_steps).filter(|&steps| steps > 0)?;
        let left = self.total_steps.saturating_sub(step);
        Some(elapsed.as_secs_f64() * left as f64 / done_here as f64)
    }
}

fn print_line(line: &str) {
    // A closed standard error is no reason to end a run.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Everything but the counts: `loss 5.812 (chance 8.318)  412 images/s  data wait 1.2 %  ETA 45 s`.
fn details(state: &ProgressState, seconds_left: Option<f64>) -> String {
    let chance = state.reference_loss.map(|loss| format!(" (chance {loss:.3})"));
    let left = seconds_left.map(|seconds| format!("  ETA {}", text::duration(seconds)));
    format!(
        "loss {:.3}{}  {} images/s  data wait {}{}",
        state.loss,
        chance.unwrap_or_default(),
        text::rate(state.images_per_second),
        text::percent(state.data_wait_share),
        left.unwrap_or_default(),
    )
}

/// Chooses which lines a log gets.
#[derive(Debug, Default)]
struct Lines {
    printed_at: Option<Duration>,
    /// The epoch and text of the latest line, while it has not been printed.
    held: Option<(u64, String)>,
}

impl Lines {
    /// The lines to print now, `elapsed` after the start.
    fn update(&mut self, epoch: u64, line: String, elapsed: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.held.take().filter(|(held, _)| *held != epoch).map(|(_, line)| line));
        if self.printed_at.is_none_or(|at| elapsed.saturating_sub(at) >= LINE_INTERVAL) {
            self.printed_at = Some(elapsed);
            lines.push(line);
        } else {
            self.held = Some((epoch, line));
        }
        lines
    }

    fn finish(&mut self) -> Option<String> {
        self.held.take().map(|(_, line)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: ProgressState = ProgressState {
        step: 240,
        epoch: 3,
        loss: 5.8117,
        reference_loss: Some(8.31801),
        images_per_second: 412.3,
        data_wait_share: 0.012,
    };

    #[test]
    fn a_line_says_what_matters() {
        assert_eq!(
            details(&STATE, Some(723.2)),
            "loss 5.812 (chance 8.318)  412 images/s  data wait 1.2 %  ETA 12 min 3 s"
        );
        let bare = ProgressState { reference_loss: None, loss: f64::NAN, ..STATE };
        assert_eq!(details(&bare, None), "loss NaN  412 images/s  data wait 1.2 %");
    }

    #[test]
    fn time_left_counts_only_what_this_process_did() {
        let progress = Progress { total_steps: 1000, done_steps: 500, ..Progress::hidden() };
        let elapsed = Duration::from_mins(1);
        assert_eq!(progress.time_left(500, elapsed), None);
        assert_eq!(progress.time_left(600, elapsed), Some(240.0));
        assert_eq!(progress.time_left(1000, elapsed), Some(0.0));
        assert_eq!(progress.time_left(1001, elapsed), Some(0.0));
    }

    #[test]
    fn a_log_gets_a_line_per_interval_and_one_per_epoch() {
        let mut lines = Lines::default();
        let mut printed = Vec::new();
        // Four steps a second, twenty to an epoch of five seconds.
        for step in 1..=60_u64 {
            let elapsed = Duration::from_millis(250 * step);
            printed.extend(lines.update((step - 1) / 20 + 1, step.to_string(), elapsed));
        }
        printed.extend(lines.finish());
        assert_eq!(printed, ["1", "20", "40", "41", "60"]);
        assert_eq!(lines.finish(), None);
    }
}
