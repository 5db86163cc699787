//! Where a stage stands: what a progress bar and plain lines say of it.

use std::collections::VecDeque;

use luthier_record::{Event, Line};

/// How many steps the loss and the speed are averaged over.
const RECENT: usize = 50;

/// A stage in progress, by its events.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// The steps it will take, if nothing stops it.
    pub(crate) steps: u64,
    /// The steps done.
    pub(crate) step: u64,
    /// The passes over the data done.
    pub(crate) epoch: f64,
    /// The learning rate of the last step.
    pub(crate) learning_rate: f64,
    /// When, and after which step, this process began with it.
    began: (f64, u64),
    now: f64,
    /// Loss, tokens and seconds of the last steps.
    recent: VecDeque<(f64, u64, f64)>,
}

impl Track {
    /// Takes note of an event.
    pub(crate) fn observe(&mut self, line: &Line) {
        self.now = line.time;
        match &line.event {
            Event::StageStarted { steps, .. } => {
                *self = Track { steps: *steps, began: (line.time, 0), now: line.time, ..Track::default() };
            }
            Event::Resumed { step, .. } => {
                self.step = *step;
                self.began = (line.time, *step);
            }
            Event::Step { step, epoch, loss, learning_rate, tokens, tokens_per_second, .. } => {
                (self.step, self.epoch, self.learning_rate) = (*step, *epoch, *learning_rate);
                if self.recent.len() == RECENT {
                    self.recent.pop_front();
                }
                let seconds = if *tokens_per_second > 0.0 { *tokens as f64 / tokens_per_second } else { 0.0 };
                self.recent.push_back((*loss, *tokens, seconds));
            }
            _ => {}
        }
    }

    /// The mean loss of the last steps.
    pub(crate) fn loss(&self) -> f64 {
        self.recent.iter().map(|(loss, ..)| loss).sum::<f64>() / self.recent.len() as f64
    }

    /// Real tokens per second over the last steps.
    pub(crate) fn tokens_per_second(&self) -> f64 {
        let (tokens, seconds) = self.recent.iter().fold((0, 0.0), |sum, step| (sum.0 + step.1, sum.1 + step.2));
        tokens as f64 / seconds
    }

    /// How long the rest of the stage takes if it goes on as it went, evaluations included.
    pub(crate) fn seconds_left(&self) -> Option<f64> {
        let (time, step) = self.began;
        let done = self.step.checked_sub(step).filter(|done| *done > 0)?;
        Some((self.now - time) / done as f64 * self.steps.saturating_sub(self.step) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(time: f64, step: u64, loss: f64, tokens: u64, tokens_per_second: f64) -> Line {
        let (epoch, gradient_norm, learning_rate) = (0.5, 1.0, 1e-3);
        let event = Event::Step { step, epoch, loss, gradient_norm, learning_rate, tokens, tokens_per_second };
        Line { time, event }
    }

    #[test]
    fn means_and_time_left_by_hand() {
        let mut track = Track::default();
        let (name, objective) = ("a".to_owned(), "mlm".to_owned());
        let (trainable_parameters, total_parameters) = (1, 2);
        let event = Event::StageStarted { name, objective, steps: 100, trainable_parameters, total_parameters };
        track.observe(&Line { time: 10.0, event });
        assert_eq!(track.seconds_left(), None);
        track.observe(&Line { time: 12.0, event: Event::Resumed { stage: "a".into(), step: 40 } });
        assert_eq!((track.step, track.seconds_left()), (40, None));
        track.observe(&step(13.0, 41, 4.0, 100, 100.0));
        track.observe(&step(14.0, 42, 2.0, 500, 1000.0));
        assert_eq!((track.loss(), track.tokens_per_second()), (3.0, 400.0));
        // Two steps in two seconds; 58 are left.
        assert_eq!(track.seconds_left(), Some(58.0));
        // Only the last 50 count.
        (43..=92).for_each(|i| track.observe(&step(14.0, i, 1.0, 10, 10.0)));
        assert_eq!((track.loss(), track.tokens_per_second()), (1.0, 10.0));
    }
}
