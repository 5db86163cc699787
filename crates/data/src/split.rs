//! A dev set cut off the training set: a fraction of it, with the balance of the labels kept.

use crate::error::{DataError, Result};
use luthier_random::Rng;

/// The examples of two sets, each in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What stays for training.
    pub train: Vec<u32>,
    /// What is set aside.
    pub dev: Vec<u32>,
}

/// Sets a fraction of the examples aside, chosen by chance from `seed`.
///
/// With labels (one id an example) each label gives its share: the whole part of `count * fraction`, and the examples
/// still missing to `n * fraction` come from the labels with the largest remainders. A label keeps at least one example
/// for training, so a label with a single example gives none.
///
/// # Errors
/// A fraction outside (0, 1), and examples too few for two sets.
pub fn split_dev(n: usize, labels: Option<&[u32]>, fraction: f64, seed: u64) -> Result<Split> {
    let request = |found: String, expected: &str, help| {
        Err(DataError::Request {
            what: "the dev set's share of the training data",
            found,
            expected: expected.into(),
            help,
        })
    };
    if !(fraction > 0.0 && fraction < 1.0) {
        return request(fraction.to_string(), "a number between 0 and 1", "write dev = 0.1 for a tenth");
    }
    let one_group;
    let labels = match labels {
        Some(labels) => labels,
        None => {
            one_group = vec![0; n];
            &one_group
        }
    };
    if labels.len() != n {
        return request(
            format!("{} labels for {n} examples", labels.len()),
            "a label an example",
            "this is a fault of the caller",
        );
    }

    let groups = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); groups];
    for (example, &label) in labels.iter().enumerate() {
        members[label as usize].push(example as u32);
    }
    let mut aside: Vec<usize> =
        members.iter().map(|m| ((m.len() as f64 * fraction) as usize).min(m.len().saturating_sub(1))).collect();
    let total = (n as f64 * fraction).round() as usize;
    let mut by_remainder: Vec<usize> = (0..groups).collect();
    let remainder = |group: usize| (members[group].len() as f64 * fraction).fract();
    // The sort is stable: equal remainders go by label id.
    by_remainder.sort_by(|&a, &b| remainder(b).total_cmp(&remainder(a)));
    for group in by_remainder {
        if aside.iter().sum::<usize>() < total && aside[group] + 1 < members[group].len() {
            aside[group] += 1;
        }
    }

    let mut is_dev = vec![false; n];
    for (label, (members, &count)) in members.iter().zip(&aside).enumerate() {
        let order = Rng::at(seed, "split", 0, label as u64).permutation(members.len());
        for &place in &order[..count] {
            is_dev[members[place as usize] as usize] = true;
        }
    }
    let (dev, train): (Vec<u32>, Vec<u32>) = (0..n as u32).partition(|&example| is_dev[example as usize]);
    if dev.is_empty() {
        let found = format!("{fraction} of {n} examples, which is none");
        return request(found, "at least one example in the dev set", "raise the share, or name a dev file");
    }
    Ok(Split { train, dev })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn balance_is_kept(counts in prop::collection::vec(1usize..40, 1..12), fraction in 0.02f64..0.9, seed: u64) {
            let labels: Vec<u32> = counts.iter().enumerate().flat_map(|(id, &n)| vec![id as u32; n]).collect();
            let n = labels.len();
            let Ok(split) = split_dev(n, Some(&labels), fraction, seed) else {
                prop_assert!(n as f64 * fraction < 1.0 || counts.iter().all(|&c| c == 1 || (c as f64 * fraction) < 1.0));
                return Ok(());
            };
            let mut all = [split.train.clone(), split.dev.clone()].concat();
            all.sort_unstable();
            prop_assert!(all.iter().enumerate().all(|(i, &example)| i as u32 == example) && all.len() == n);
            for (id, &count) in counts.iter().enumerate() {
                let dev = split.dev.iter().filter(|&&example| labels[example as usize] == id as u32).count();
                prop_assert!(dev < count, "label {} lost all its {} examples", id, count);
                prop_assert!((dev as f64 - count as f64 * fraction).abs() <= 1.0, "label {}: {} of {}", id, dev, count);
            }
            prop_assert_eq!(&split, &split_dev(n, Some(&labels), fraction, seed)?);
        }
    }

    #[test]
    fn the_share_is_exact_and_the_seed_matters() -> Result<()> {
        let labels: Vec<u32> = (0..1000).map(|i| i % 7).collect();
        let split = split_dev(1000, Some(&labels), 0.1, 1)?;
        assert_eq!((split.dev.len(), split.train.len()), (100, 900));
        assert_ne!(split, split_dev(1000, Some(&labels), 0.1, 2)?);
        assert!(split_dev(1000, None, 1.5, 1).is_err());
        assert!(split_dev(3, None, 0.1, 1).is_err());
        assert_eq!(split_dev(10, None, 0.5, 1)?.dev.len(), 5);
        Ok(())
    }
}
