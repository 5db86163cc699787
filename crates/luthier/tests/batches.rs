//! Laws of the system: how a step is cut into batches, and by how many threads it is computed, changes no result.
//!
//! A random two-layer BERT, with dropout wherever the law allows it: masks hang on an example's slot in its step.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use luthier::nn::{Batch, Grads, Mode, Network};
use proptest::prelude::*;
use support::tiny::{self, Example, SMALL, Size};
use support::{Bench, Classify, MaskedLm, Rate, bits, distance};

const DROPOUT: Size = Size { dropout: 0.1, ..SMALL };

fn bench(network: Arc<dyn Network>, language_model: bool) -> Bench {
    let params = tiny::params(network.spec(), 3);
    let plan = tiny::full(&*network);
    if language_model {
        Bench::new(network, Arc::new(MaskedLm), plan, params, 5)
    } else {
        Bench::new(network, Arc::new(Classify), plan, params, 5)
    }
}

fn sums(bench: &Bench, batches: &[Batch]) -> (f64, Grads) {
    let mut grads = Grads::default();
    let losses = batches.iter().map(|batch| bench.sums(batch, &mut grads).0).sum();
    (losses, grads)
}

/// Sums in another order differ by rounding, and by no more.
fn same(what: &str, bench: &Bench, found: &[Batch], expected: &[Batch]) {
    let ((loss, grads), (expected_loss, expected)) = (sums(bench, found), sums(bench, expected));
    assert!(
        (loss - expected_loss).abs() <= 1e-5 * expected_loss.abs(),
        "{what}: the loss is {loss}, not {expected_loss}"
    );
    assert_eq!(grads.len(), expected.len());
    // Some gradients are zero but for rounding: all of a key bias, and those of queries and keys where a sequence has one token.
    let rounding = 1e-2 * expected.norm().unwrap();
    for (path, _) in expected.iter() {
        let mut found = grads.dense(path).unwrap().unwrap_or_else(|| panic!("{what}: {path} has no gradient"));
        let expected = expected.dense(path).unwrap().unwrap();
        let size = expected.sum_squares().unwrap().sqrt();
        found.add_scaled(-1.0, &expected).unwrap();
        let error = found.sum_squares().unwrap().sqrt() / (size + rounding);
        assert!(error < 2e-5, "{what}: the gradient of {path} is off by {error:.1e}");
    }
}

fn one_by_one(examples: &[Example], cut: fn(&[Example], &[usize]) -> Batch) -> Vec<Batch> {
    (0..examples.len()).map(|i| cut(examples, &[i])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Law 10. Seen to fail with positions that run on from one sequence into the next.
    #[test]
    fn packed_is_one_by_one(lengths in prop::collection::vec(1usize..=32, 1..=9), seed in 0u64..1000) {
        let examples = tiny::examples(&lengths, SMALL.vocabulary, seed);
        let every: Vec<usize> = (0..examples.len()).collect();
        let classify = bench(tiny::classifier(DROPOUT), false);
        same("classify", &classify, &[tiny::batch(&examples, &every)], &one_by_one(&examples, tiny::batch));
        let mlm = bench(tiny::masked_lm(DROPOUT), true);
        same("mlm", &mlm, &[tiny::masked(&examples, &every)], &one_by_one(&examples, tiny::masked));
    }
}

fn twelve() -> Vec<Example> {
    tiny::examples(&[5, 9, 1, 12, 32, 3, 7, 7, 20, 2, 15, 4], SMALL.vocabulary, 8)
}

/// Law 11. Seen to fail with masks drawn from a token's row in its micro-batch instead of its key.
#[test]
fn micro_batches_are_the_large_batch() {
    let examples = twelve();
    let every: Vec<usize> = (0..12).collect();
    for chunk in [1, 2, 5, 11] {
        let classify = bench(tiny::classifier(DROPOUT), false);
        let cut: Vec<Batch> = every.chunks(chunk).map(|chosen| tiny::batch(&examples, chosen)).collect();
        same(&format!("micro-batches of {chunk}"), &classify, &cut, &[tiny::batch(&examples, &every)]);
        let mlm = bench(tiny::masked_lm(DROPOUT), true);
        let cut: Vec<Batch> = every.chunks(chunk).map(|chosen| tiny::masked(&examples, chosen)).collect();
        same(&format!("masked micro-batches of {chunk}"), &mlm, &cut, &[tiny::masked(&examples, &every)]);
    }
}

/// Law 12. Seen to fail with slots that count the sequences of a batch.
#[test]
fn the_order_of_examples_does_not_matter() {
    let examples = twelve();
    let every: Vec<usize> = (0..12).collect();
    let other = [7, 2, 11, 4, 0, 9, 5, 10, 1, 8, 3, 6];
    let classify = bench(tiny::classifier(DROPOUT), false);
    same("classify", &classify, &[tiny::batch(&examples, &other)], &[tiny::batch(&examples, &every)]);
    let mlm = bench(tiny::masked_lm(DROPOUT), true);
    same("mlm", &mlm, &[tiny::masked(&examples, &other)], &[tiny::masked(&examples, &every)]);
}

/// Law 15. Seen to fail with a context that always evaluates, and with one that always trains.
#[test]
fn training_is_random_and_evaluation_is_not() {
    let batch = tiny::all(&twelve());
    let mut bench = bench(tiny::classifier(DROPOUT), false);
    let loss = |bench: &Bench, step: u64| {
        let mut cx = bench.cx(Mode::Train { step });
        let logits = bench.network.forward(&batch, &mut cx).unwrap();
        logits.value().to_vec()
    };
    let (first, again, second) = (loss(&bench, 0), loss(&bench, 0), loss(&bench, 1));
    assert_eq!(first, again, "one step's masks are not always the same");
    assert!(distance(&first, &second) > 1e-2, "two steps have the same masks");
    let still = bench.logits(&batch);
    assert_eq!(still, bench.logits(&batch));
    assert!(distance(&first, &still) > 1e-2, "nothing was dropped");
    bench.seed += 1;
    assert!(distance(&first, &loss(&bench, 0)) > 1e-2, "another seed has the same masks");
    assert_eq!(still, bench.logits(&batch), "evaluation depends on the seed");
}

/// Large enough that every operation has work for several threads. Seen to fail with a sum that is cut into as many parts
/// as there are threads.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let size = Size { vocabulary: 300, width: 128, dropout: 0.1 };
    let lengths: Vec<usize> = (0..40).map(|i| 4 + 7 * i % 29).collect();
    let examples = tiny::examples(&lengths, size.vocabulary, 4);
    let every: Vec<usize> = (0..examples.len()).collect();
    let run = |threads: usize, language_model: bool| {
        luthier::tensor::with_threads(threads, || {
            let network = if language_model { tiny::masked_lm(size) } else { tiny::classifier(size) };
            let batch = if language_model { tiny::masked(&examples, &every) } else { tiny::batch(&examples, &every) };
            let mut bench = bench(network, language_model);
            let mut losses = Vec::new();
            for _ in 0..3 {
                losses.push(
                    bench.train(std::slice::from_ref(&batch), Rate { learning_rate: 1e-3, weight_decay: 0.01 }).0,
                );
            }
            let values: Vec<(String, Vec<u32>)> =
                bench.params.iter().map(|(path, t)| (path.to_owned(), bits(t))).collect();
            (losses, values)
        })
    };
    for language_model in [false, true] {
        let one = run(1, language_model);
        for threads in [2, 3] {
            let more = run(threads, language_model);
            assert_eq!(one.0, more.0, "the losses with {threads} threads");
            for ((path, one), (_, more)) in one.1.iter().zip(&more.1) {
                assert!(one == more, "{path} differs with {threads} threads");
            }
        }
    }
}
