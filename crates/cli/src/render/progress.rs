//! A run on a terminal: a progress bar, and above it evaluations as the rows of one table.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use luthier_record::{Event, Line, Scores};

use super::number::{duration, rate, value};
use super::paint::Paint;
use super::plain::sentences;
use super::track::Track;
use crate::screen::Screen;

/// A run on a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    screen: Screen,
    track: Track,
    evaluations: Evaluations,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(screen: Screen) -> Progress {
        Progress { screen, track: Track::default(), evaluations: Evaluations::default(), bar: None }
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, line: &Line) {
        self.track.observe(line);
        let paint = self.screen.paint;
        match &line.event {
            Event::Step { .. } => self.step(),
            Event::Evaluated { step, split, scores, best } => {
                let best = best.as_ref().is_some_and(|best| best.step == *step);
                let rows = self.evaluations.rows(*step, self.track.epoch, split, scores, best, paint);
                rows.iter().for_each(|row| self.say(row));
            }
            _ => {
                if matches!(line.event, Event::StageFinished(_) | Event::Interrupted { .. } | Event::RunFinished(_)) {
                    self.clear();
                }
                sentences(line, paint).iter().for_each(|line| self.say(line));
                if let Event::StageStarted { steps, .. } = line.event {
                    self.evaluations = Evaluations::default();
                    self.bar = Some(bar(steps, paint));
                }
            }
        }
    }

    /// Takes the bar away; what was said stays.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn step(&self) {
        let Some(bar) = &self.bar else { return };
        let track = &self.track;
        let left = track.seconds_left().map_or_else(String::new, |left| format!("  {} left", duration(left)));
        bar.set_position(track.step);
        let speed = rate(track.tokens_per_second());
        bar.set_message(format!("loss {}  {speed} tokens/s{left}", value(track.loss())));
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.screen.say(line)),
            None => self.screen.say(line),
        }
    }
}

fn bar(steps: u64, paint: Paint) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stdout());
    let template = if paint.on { "{bar:28.cyan/dim} {pos}/{len}  {msg}" } else { "{bar:28} {pos}/{len}  {msg}" };
    // The templates are ours; a wrong one would leave the default look.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    // It is drawn before the first step, which may take a while.
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The evaluations of a stage as a table that grows: its columns are fixed before its rows are known.
#[derive(Debug, Default)]
struct Evaluations {
    metrics: Vec<String>,
}

impl Evaluations {
    /// The row of an evaluation, below a header where the metrics are new.
    fn rows(&mut self, step: u64, epoch: f64, split: &str, scores: &Scores, best: bool, paint: Paint) -> Vec<String> {
        let metrics: Vec<String> = scores.0.keys().cloned().collect();
        let mut lines = Vec::new();
        let cells = |cell: &dyn Fn(&String) -> String| {
            let cells = metrics.iter().map(|metric| format!("  {:>width$}", cell(metric), width = metric.len().max(8)));
            cells.collect::<String>()
        };
        if metrics != self.metrics {
            let header = format!("{:>8}  {:>6}  {:<5}{}", "step", "epoch", "split", cells(&String::clone));
            lines.push(paint.bold(&header));
            self.metrics.clone_from(&metrics);
        }
        let values = cells(&|metric| scores.value(metric).map_or_else(String::new, value));
        let best = if best { format!("  {}", paint.green("best")) } else { String::new() };
        lines.push(format!("{step:>8}  {epoch:>6.2}  {split:<5}{values}{best}"));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::plain::tests::scores;
    use super::*;
    use expect_test::expect;

    #[test]
    fn evaluations_line_up() {
        let (mut table, paint) = (Evaluations::default(), Paint { on: false });
        let mut lines = table.rows(0, 0.0, "dev", &scores(0.0123, false), true, paint);
        lines.extend(table.rows(282, 1.0, "dev", &scores(0.9, true), true, paint));
        lines.extend(table.rows(564, 2.0, "dev", &scores(0.8, true), false, paint));
        lines.extend(table.rows(
            564,
            2.0,
            "test",
            &[("loss", scores(0.1, false).0["loss"])].into_iter().collect(),
            false,
            paint,
        ));
        // A bar in front keeps the blanks at the beginning of the lines.
        let text: String = lines.iter().map(|line| format!("|{line}\n")).collect();
        expect![[r#"
            |    step   epoch  split  accuracy      loss
            |       0    0.00  dev      0.0123    0.5000  best
            |     282    1.00  dev      0.9000    0.5000  best
            |     564    2.00  dev      0.8000    0.5000
            |    step   epoch  split      loss
            |     564    2.00  test     0.5000
        "#]]
        .assert_eq(&text);
    }
}
