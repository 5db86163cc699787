//! Confidence intervals by the percentile bootstrap.
//!
//! Paper: Efron 1979, "Bootstrap methods: another look at the jackknife", <https://doi.org/10.1214/aos/1176344552>; the
//! percentile interval is from Efron 1981, <https://doi.org/10.2307/3314608>.
//! The test set is drawn anew [`RESAMPLES`] times, as many examples as it has, with replacement; the metric is computed
//! on each; the interval reaches from the 2.5th to the 97.5th percentile of those values ([`LEVEL`] = 0.95; between two
//! ranks the percentile is interpolated).
//! It says how far the score would move with another test set of this size. It does not speak of other seeds or other
//! training data.
//!
//! The draws are a pure function of the seed, the number of the resample and that of the draw: the same seed gives the
//! same interval, and different metrics over the same examples see the same resamples.
use luthier_random::Rng;

/// How many times the examples are drawn anew.
pub const RESAMPLES: u64 = 1000;
/// The share of resamples whose value lies inside the interval.
pub const LEVEL: f64 = 0.95;

/// A confidence interval of level [`LEVEL`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The interval of `statistic` over `examples` examples; it is called with the numbers of the examples of a resample
/// (counted from 0, repeated as often as they were drawn).
///
/// Resamples on which the statistic is undefined are left out. `None` when there are fewer than two examples (one says
/// nothing about spread), when it is undefined on all of them, or when a value is not a number. The time is that of
/// [`RESAMPLES`] times `examples` draws.
pub fn bootstrap(examples: u32, seed: u64, mut statistic: impl FnMut(&[u32]) -> Option<f64>) -> Option<Interval> {
    if examples < 2 {
        return None;
    }
    let mut drawn = vec![0u32; examples as usize];
    let mut values = Vec::with_capacity(RESAMPLES as usize);
    for resample in 0..RESAMPLES {
        draw(Rng::at(seed, "bootstrap", resample, 0), &mut drawn);
        values.extend(statistic(&drawn));
    }
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - LEVEL) / 2.0;
    Some(Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) })
}

/// Fills `drawn` with numbers uniform in `0..drawn.len()`, four from each block of random words.
/// The bias of multiply-and-shift is below `drawn.len() / 2^32`, far under the interval's own noise.
fn draw(rng: Rng, drawn: &mut [u32]) {
    let n = drawn.len() as u64;
    for (block, four) in drawn.chunks_mut(4).enumerate() {
        for (number, word) in four.iter_mut().zip(rng.words(block as u64)) {
            *number = ((u64::from(word) * n) >> 32) as u32;
        }
    }
}

/// The value below which a share `at` of `sorted` lies, interpolated between neighbours (type 7 of Hyndman and Fan 1996).
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let position = at * (sorted.len() - 1) as f64;
    let (below, part) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    // Equal neighbours are returned as they are, so that two infinite ones do not make a NaN.
    if sorted[below] == sorted[above] { sorted[below] } else { sorted[below] + part * (sorted[above] - sorted[below]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `i`-th value of a data set drawn from a known distribution.
    type Sample = fn(Rng, u64) -> f64;

    fn mean(values: &[f64]) -> impl Fn(&[u32]) -> Option<f64> + '_ {
        |drawn| Some(drawn.iter().map(|&i| values[i as usize]).sum::<f64>() / drawn.len() as f64)
    }

    /// NumPy's `quantile` with its default method.
    #[test]
    fn quantiles_as_numpy_interpolates() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|at| quantile(&sorted, at)), [1.0, 1.75, 3.0, 5.0, 8.0]);
        assert_eq!(quantile(&[3.0], 0.975), 3.0);
        assert_eq!(quantile(&[1.0, f64::INFINITY, f64::INFINITY], 0.9), f64::INFINITY);
    }

    /// For a share of 0.9 among 3 080 answers, theory gives a standard error of sqrt(0.9 x 0.1 / 3080).
    #[test]
    fn agrees_with_the_normal_approximation() {
        let values: Vec<f64> = (0..3080).map(|i| if i % 10 == 0 { 0.0 } else { 1.0 }).collect();
        let half = 1.96 * (0.09f64 / 3080.0).sqrt();
        let found = bootstrap(3080, 1, mean(&values)).expect("3 080 examples have an interval");
        assert!((found.low - (0.9 - half)).abs() < 0.12 * half, "{found:?} {half}");
        assert!((found.high - (0.9 + half)).abs() < 0.12 * half, "{found:?} {half}");
    }

    /// A 95 % interval contains the truth about 95 times in 100: for a share, and for the mean of a skewed loss.
    /// (With a level of 0.5 in place of `LEVEL` this fails, and with the same draws in every resample.)
    #[test]
    fn covers_the_true_value() {
        let (sets, size) = (400u64, 200u64);
        let share: Sample = |rng, i| f64::from(u8::from(rng.uniform(i) < 0.8));
        let exponential: Sample = |rng, i| -(1.0 - rng.uniform(i)).ln();
        for (name, truth, sample) in [("share", 0.8, share), ("loss", 1.0, exponential)] {
            let covered = (0..sets).filter(|&set| {
                let values: Vec<f64> = (0..size).map(|i| sample(Rng::at(5, name, set, 0), i)).collect();
                bootstrap(size as u32, set, mean(&values))
                    .is_some_and(|found| found.low <= truth && truth <= found.high)
            });
            let covered = covered.count() as f64 / sets as f64;
            assert!((0.915..=0.98).contains(&covered), "{name}: {covered}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i).sqrt()).collect();
        assert_eq!(bootstrap(100, 1, mean(&values)), bootstrap(100, 1, mean(&values)));
        assert_ne!(bootstrap(100, 1, mean(&values)), bootstrap(100, 2, mean(&values)));
    }

    #[test]
    fn no_interval_where_there_is_none() {
        assert_eq!(bootstrap(0, 1, |_| Some(1.0)), None);
        assert_eq!(bootstrap(1, 1, |_| Some(1.0)), None);
        assert_eq!(bootstrap(9, 1, |_| None), None);
        assert_eq!(bootstrap(9, 1, |_| Some(f64::NAN)), None);
        assert_eq!(bootstrap(9, 1, |_| Some(2.0)), Some(Interval { low: 2.0, high: 2.0 }));
    }
}
