//! The metrics against scikit-learn, and the laws that hold for every one of them.

use luthier_metrics::{Accuracy, Loss, MacroF1, Matthews, Metric, MicroF1, Perplexity};
use luthier_metrics::{Evidence, Example, MetricKind, Pair};
use luthier_random::Rng;

/// A made-up evaluation: some examples without pairs, some with several; the prediction is right about half the time.
fn made_up(examples: u64, classes: u64, seed: u64) -> Evidence {
    let mut evidence = Evidence::default();
    for example in 0..examples {
        let rng = Rng::at(seed, "made up", example, 0);
        let pairs: Vec<Pair> = (0..rng.below(0, 4))
            .map(|i| {
                let gold = rng.below(3 * i + 1, classes) as u32;
                let guess = rng.below(3 * i + 2, classes) as u32;
                Pair { gold, predicted: if rng.uniform(3 * i + 3) < 0.5 { gold } else { guess } }
            })
            .collect();
        evidence.push(rng.uniform(20) * pairs.len() as f64, pairs.len() as u64, &pairs);
    }
    evidence
}

fn all<M: Metric>(evidence: &Evidence) -> M {
    let mut metric = M::default();
    evidence.iter().for_each(|example| metric.add(&example));
    metric
}

#[test]
fn agree_with_scikit_learn() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/metrics.json");
    let text = std::fs::read_to_string(path).expect("fixtures/metrics.json is part of the repository");
    let fixture: serde_json::Value = serde_json::from_str(&text).expect("the fixture is JSON");
    let cases = fixture["cases"].as_array().expect("the fixture has cases");
    assert!(cases.len() >= 5, "only {} cases", cases.len());
    for (number, case) in cases.iter().enumerate() {
        let classes = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).expect("class numbers") };
        let mut evidence = Evidence::default();
        for (gold, predicted) in classes("gold").into_iter().zip(classes("predicted")) {
            evidence.push(0.0, 1, &[Pair { gold, predicted }]);
        }
        for name in ["accuracy", "macro_f1", "micro_f1", "matthews"] {
            let expected = case[name].as_f64().expect("a number");
            let found = name.parse::<MetricKind>().expect("a metric").score(&evidence).expect("there are answers");
            assert!((found - expected).abs() < 1e-12, "case {number}, {name}: {found} and not {expected}");
        }
    }
}

/// Any way of cutting the examples into parts, merged in any order, gives what one pass gives.
fn merging<M: Metric>() {
    for seed in 0..20 {
        let evidence = made_up(60, 2 + seed, seed);
        let whole = all::<M>(&evidence).finish().expect("sixty examples");
        let rng = Rng::at(seed, "parts", 0, 0);
        let mut parts: Vec<M> = (0..5).map(|_| M::default()).collect();
        for &example in &rng.permutation(evidence.len()) {
            let part = &mut parts[rng.below(u64::from(example), 5) as usize];
            part.add(&evidence.get(example as usize).expect("an example"));
        }
        let mut merged = M::default();
        while let Some(part) = parts.pop() {
            merged.merge(part);
        }
        let merged = merged.finish().expect("sixty examples");
        assert!((merged - whole).abs() < 1e-12 * whole.abs().max(1.0), "{}: {merged} and not {whole}", M::ABOUT);
        assert!((whole - 0.5).abs() > 1e-9, "a constant would pass this test");
    }
}

#[test]
fn parts_merged_in_any_order_are_the_whole() {
    merging::<Loss>();
    merging::<Perplexity>();
    merging::<Accuracy>();
    merging::<MacroF1>();
    merging::<MicroF1>();
    merging::<Matthews>();
}

#[test]
fn appended_evidence_is_one_evidence() {
    let (first, second) = (made_up(30, 5, 1), made_up(20, 9, 2));
    let (mut one, mut other) = (first.clone(), second.clone());
    one.append(&second);
    other.append(&first);
    assert_eq!(one.len(), 50);
    for metric in MetricKind::ALL {
        let (a, b) = (metric.score(&one).expect("examples"), metric.score(&other).expect("examples"));
        assert!((a - b).abs() < 1e-12, "{metric}: {a} and {b}");
    }
}

/// Renaming the classes changes nothing.
#[test]
fn class_numbers_are_only_names() {
    let evidence = made_up(80, 11, 3);
    let names = Rng::at(3, "names", 0, 0).permutation(11);
    let rename = |number: u32| names[number as usize];
    let mut renamed = Evidence::default();
    for Example { loss, count, pairs } in evidence.iter() {
        let pairs = pairs.iter().map(|pair| Pair { gold: rename(pair.gold), predicted: rename(pair.predicted) });
        renamed.push(loss, count, &pairs.collect::<Vec<_>>());
    }
    for metric in MetricKind::ALL {
        let (a, b) = (metric.score(&evidence).expect("examples"), metric.score(&renamed).expect("examples"));
        assert!((a - b).abs() < 1e-12, "{metric}: {a} and {b}");
    }
}

#[test]
fn intervals_hold_their_score_and_narrow_with_more_examples() {
    let width = |metric: MetricKind, evidence: &Evidence| {
        let interval = metric.interval(evidence, 7).expect("many examples");
        let score = metric.score(evidence).expect("many examples");
        assert!(interval.low < score && score < interval.high, "{metric}: {score} in {interval:?}");
        interval.high - interval.low
    };
    for &metric in MetricKind::ALL {
        let (few, many) = (width(metric, &made_up(200, 5, 4)), width(metric, &made_up(3200, 5, 4)));
        // Sixteen times the examples: a quarter of the width.
        assert!((0.18..0.33).contains(&(many / few)), "{metric}: {few} and {many}");
    }
}

/// Answers of one text stand or fall together: ten copies of each answer inside one example leave the interval as wide
/// as it was, where ten times as many examples would make it narrower.
#[test]
fn the_unit_of_resampling_is_the_example() {
    let (mut single, mut copied) = (Evidence::default(), Evidence::default());
    for example in made_up(300, 5, 6).iter() {
        let copies: Vec<Pair> = std::iter::repeat_n(example.pairs, 10).flatten().copied().collect();
        single.push(example.loss, example.count, example.pairs);
        copied.push(10.0 * example.loss, 10 * example.count, &copies);
    }
    let interval = |evidence| MetricKind::Accuracy.interval(evidence, 7);
    assert!(interval(&single).is_some());
    assert_eq!(interval(&single), interval(&copied));
}

#[test]
fn nothing_to_measure_is_no_score() {
    let (nothing, mut without_answers) = (Evidence::default(), Evidence::default());
    without_answers.push(0.0, 0, &[]);
    without_answers.push(0.0, 0, &[]);
    for metric in MetricKind::ALL {
        for evidence in [&nothing, &without_answers] {
            assert_eq!((metric.score(evidence), metric.interval(evidence, 7)), (None, None), "{metric}");
        }
    }
}
