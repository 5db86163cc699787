//! Cross entropy of classes.

use rayon::prelude::*;

use crate::error::{Result, TensorError, ensure_shape};
use crate::kernels::{math::vectorised, parallel, softmax};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Fails when there is not one target for every row, or one is not among the classes.
pub(crate) fn check_targets(op: &'static str, targets: &[u32], rows: usize, classes: usize) -> Result<()> {
    ensure_shape(op, targets.len() == rows, &[rows], || format!("{} targets", targets.len()))?;
    match targets.iter().find(|&&target| target as usize >= classes) {
        Some(&target) => Err(TensorError::Index { op, index: target as usize, len: classes }),
        None => Ok(()),
    }
}

/// Replaces a row of logits by the gradient of its loss, `softmax - target`, and returns the loss.
#[inline(always)]
pub(crate) fn row_with_gradient(row: &mut [f32], target: usize) -> f64 {
    let logit = row[target];
    let (largest, log_sum) = softmax::softmax(row);
    row[target] -= 1.0;
    log_sum + f64::from(largest - logit)
}

/// The loss of a row of logits.
#[inline(always)]
pub(crate) fn row_loss(row: &[f32], target: usize) -> f64 {
    let largest = softmax::max(row);
    f64::from(softmax::sum_of_exponentials(row, largest)).ln() + f64::from(largest - row[target])
}

impl Tape {
    /// The sum over the rows of `logits` (`[rows, classes]`) of `-log softmax(row)[target]`, in nats: a scalar.
    ///
    /// # Errors
    /// When there is not one target for every row, or one is not among the classes.
    pub fn cross_entropy(&mut self, logits: &Var, targets: &[u32]) -> Result<Var> {
        let _span = self.device().span("cross_entropy");
        let (rows, classes) = (logits.value().rows(), logits.value().width());
        logits.value().expect_f32("cross_entropy")?;
        check_targets("cross_entropy", targets, rows, classes)?;
        let block = parallel::rows_per_block(classes);
        let mut losses = vec![0.0f64; rows];
        let width = classes.max(1);
        let to = logits.node();
        // The gradient up to the factor that comes from above is a by-product of the loss, so it is what is saved.
        let residual = to.is_some().then(|| {
            let mut residual = Tensor::stale(self.device(), logits.value().shape());
            let groups = residual.f32_mut().par_chunks_mut(block * width).zip(logits.f32().par_chunks(block * width));
            groups.zip(targets.par_chunks(block)).zip(losses.par_chunks_mut(block)).for_each(
                |(((out, logits), targets), losses)| {
                    out.copy_from_slice(logits);
                    vectorised(
                        #[inline(always)]
                        || {
                            for ((row, &target), loss) in
                                out.chunks_exact_mut(width).zip(targets).zip(losses.iter_mut())
                            {
                                *loss = row_with_gradient(row, target as usize);
                            }
                        },
                    );
                },
            );
            residual
        });
        if residual.is_none() {
            let groups = logits.f32().par_chunks(block * width).zip(targets.par_chunks(block));
            groups.zip(losses.par_chunks_mut(block)).for_each(|((logits, targets), losses)| {
                vectorised(
                    #[inline(always)]
                    || {
                        for ((row, &target), loss) in logits.chunks_exact(width).zip(targets).zip(losses.iter_mut()) {
                            *loss = row_loss(row, target as usize);
                        }
                    },
                );
            });
        }
        let loss = Tensor::full(self.device(), &[1], losses.iter().sum::<f64>() as f32);
        Ok(self.record("cross_entropy", loss, residual.is_some(), || {
            move |gradient: Tensor, flow| {
                let Some(mut residual) = residual else { return Ok(()) };
                residual.scale(gradient.item().unwrap_or(0.0))?;
                flow.add(to, residual)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{Case, noise};
    use crate::{Device, Grads, Precision, Tape, Tensor, Var};

    fn reference(logits: &[f64], targets: &[u32]) -> f64 {
        let classes = logits.len() / targets.len();
        logits
            .chunks(classes)
            .zip(targets)
            .map(|(row, &target)| row.iter().map(|x| (x - row[target as usize]).exp()).sum::<f64>().ln())
            .sum()
    }

    #[test]
    fn against_the_formula() {
        for (rows, classes) in [(1, 1), (5, 2), (3, 50), (300, 3)] {
            let mut case = Case::new();
            let logits = case.input("logits", &[rows, classes], noise(rows * classes, "logits"));
            let targets: Vec<u32> = (0..rows).map(|i| (i * 7 % classes) as u32).collect();
            case.run(
                |tape| tape.cross_entropy(&logits, &targets),
                |inputs| vec![reference(&inputs["logits"], &targets)],
            );
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let logits = Tensor::from_vec(&device, &[2, 3], vec![1e4, 0.0, -1e4, 500.0, 500.0, 400.0]).unwrap();
        let logits = tape.leaf("logits", logits);
        let loss = tape.cross_entropy(&logits, &[1, 0]).unwrap();
        assert!((loss.value().item().unwrap() - (1e4 + 2f32.ln())).abs() < 1e-2);
        let mut grads = Grads::default();
        tape.backward(&loss, &mut grads).unwrap();
        let gradient = grads.dense("logits").unwrap().unwrap().to_vec();
        assert_eq!(gradient, [1.0, -1.0, 0.0, -0.5, 0.5, 0.0]);
    }

    #[test]
    fn without_a_gradient_it_is_the_same_number() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let logits = Tensor::from_vec(&device, &[70, 40], noise(70 * 40, "logits")).unwrap();
        let targets: Vec<u32> = (0..70).map(|i| i % 40).collect();
        let frozen = tape.cross_entropy(&Var::constant(logits.clone()), &targets).unwrap();
        assert!(tape.is_empty());
        let leaf = tape.leaf("logits", logits);
        let trained = tape.cross_entropy(&leaf, &targets).unwrap();
        assert_eq!(frozen.value().item(), trained.value().item());
    }

    #[test]
    fn targets_that_do_not_fit_are_named() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let logits = Var::constant(Tensor::zeros(&device, &[2, 3]));
        let error = tape.cross_entropy(&logits, &[0, 3]).unwrap_err().to_string();
        assert_eq!(error, "cross_entropy: the index 3 is outside 0..3");
        let error = tape.cross_entropy(&logits, &[0]).unwrap_err().to_string();
        assert_eq!(error, "cross_entropy: the shape [2] does not fit 1 targets");
    }
}
