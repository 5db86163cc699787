//! The learning rate over the steps of a stage: a warm-up, then a schedule. A schedule is a function of time.

use crate::recipe::{Schedule, Train};

/// The factor on the peak learning rate at `step` (counted from 0) of `steps`, as transformers' schedulers have it.
pub fn factor(train: &Train, step: u64, steps: u64) -> f64 {
    let warmup = warmup_steps(train, steps);
    if step < warmup {
        return step as f64 / warmup as f64;
    }
    let rest = (steps - warmup).max(1) as f64;
    let done = ((step - warmup) as f64 / rest).clamp(0.0, 1.0);
    match train.schedule {
        Schedule::Linear => 1.0 - done,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        Schedule::Constant => 1.0,
    }
}

/// How many steps the warm-up takes: a fraction is rounded up, and it never outlasts the stage.
pub fn warmup_steps(train: &Train, steps: u64) -> u64 {
    let wanted = if train.warmup < 1.0 { (train.warmup * steps as f64).ceil() } else { train.warmup };
    (wanted as u64).min(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: Schedule, warmup: f64, step: u64) -> f64 {
        factor(&Train { schedule, warmup, ..Train::default() }, step, 100)
    }

    /// Values by the formulas of transformers' get_*_schedule_with_warmup.
    #[test]
    fn values_by_hand() {
        assert_eq!(at(Schedule::Linear, 0.1, 0), 0.0);
        assert_eq!(at(Schedule::Linear, 0.1, 5), 0.5);
        assert_eq!(at(Schedule::Linear, 0.1, 10), 1.0);
        assert!((at(Schedule::Linear, 0.1, 55) - 0.5).abs() < 1e-12);
        assert!((at(Schedule::Cosine, 20.0, 60) - 0.5).abs() < 1e-12);
        assert_eq!(at(Schedule::Constant, 0.0, 0), 1.0);
        assert_eq!(at(Schedule::Constant, 0.0, 99), 1.0);
    }

    #[test]
    fn a_warm_up_longer_than_the_stage_is_all_of_it() {
        assert_eq!(warmup_steps(&Train { warmup: 500.0, ..Train::default() }, 100), 100);
    }
}
