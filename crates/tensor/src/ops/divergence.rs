//! Distances between the distributions that two matrices of logits stand for.

use rayon::prelude::*;

use crate::error::{Result, ensure_shape};
use crate::kernels::{math::vectorised, parallel, softmax};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// For one row: turns the logits in `p` and `q` into the gradients with respect to them, and returns the divergence.
///
/// With `u = log p - log q`, the divergence is `Σ (p - q) u`, its gradient for the logits of `p` is
/// `p (u - Σ p u) + p - q`, and for those of `q` it is `q (Σ q u - u) + q - p`.
#[inline(always)]
fn row(p: &mut [f32], q: &mut [f32], difference: &mut [f32]) -> f64 {
    for ((u, p), q) in difference.iter_mut().zip(&*p).zip(&*q) {
        *u = p - q;
    }
    let (largest_p, log_sum_p) = softmax::softmax(p);
    let (largest_q, log_sum_q) = softmax::softmax(q);
    // log p - log q is the difference of the logits less the difference of the two logarithms of sums.
    let shift = (f64::from(largest_p) - f64::from(largest_q) + log_sum_p - log_sum_q) as f32;
    let (mut under_p, mut under_q) = (0.0f64, 0.0f64);
    for ((u, p), q) in difference.iter_mut().zip(&*p).zip(&*q) {
        *u -= shift;
        under_p += f64::from(p * *u);
        under_q += f64::from(q * *u);
    }
    let (mean_p, mean_q) = (under_p as f32, under_q as f32);
    for ((u, p), q) in difference.iter().zip(p).zip(q) {
        let apart = *p - *q;
        *p = *p * (u - mean_p) + apart;
        *q = *q * (mean_q - u) - apart;
    }
    under_p - under_q
}

impl Tape {
    /// The sum over rows of `KL(p‖q) + KL(q‖p)` in nats, `p` and `q` being the softmaxes of the rows of `a` and `b`
    /// (`[rows, classes]`, equal shapes): a scalar, with gradients into both (R3F: Aghajanyan et al. 2021).
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn symmetric_kl(&mut self, a: &Var, b: &Var) -> Result<Var> {
        let _span = self.device().span("divergence");
        a.value().expect_f32("symmetric_kl")?;
        b.value().expect_f32("symmetric_kl")?;
        ensure_shape("symmetric_kl", a.value().shape() == b.value().shape(), b.value().shape(), || {
            format!("{:?}", a.value().shape())
        })?;
        let (rows, width) = (a.value().rows(), a.value().width().max(1));
        let mut toward_a = Tensor::stale(self.device(), a.value().shape());
        let mut toward_b = Tensor::stale(self.device(), a.value().shape());
        let mut parts = vec![0.0f64; rows];
        let block = parallel::rows_per_block(width);
        let outputs = toward_a.f32_mut().par_chunks_mut(block * width);
        let outputs = outputs.zip(toward_b.f32_mut().par_chunks_mut(block * width));
        let inputs = a.f32().par_chunks(block * width).zip(b.f32().par_chunks(block * width));
        outputs.zip(inputs).zip(parts.par_chunks_mut(block)).for_each(|(((p, q), (a, b)), parts)| {
            p.copy_from_slice(a);
            q.copy_from_slice(b);
            let mut difference = vec![0.0; width];
            vectorised(
                #[inline(always)]
                || {
                    for ((p, q), part) in p.chunks_exact_mut(width).zip(q.chunks_exact_mut(width)).zip(parts.iter_mut())
                    {
                        *part = row(p, q, &mut difference);
                    }
                },
            );
        });
        let loss = Tensor::full(self.device(), &[1], parts.iter().sum::<f64>() as f32);
        let nodes = (a.node(), b.node());
        Ok(self.record("divergence", loss, a.needs_grad() || b.needs_grad(), || {
            let saved = [nodes.0.map(|to| (to, toward_a)), nodes.1.map(|to| (to, toward_b))];
            move |gradient: Tensor, flow| {
                for (to, mut toward) in saved.into_iter().flatten() {
                    toward.scale(gradient.item().unwrap_or(0.0))?;
                    flow.add(Some(to), toward)?;
                }
                Ok(())
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{Case, noise};
    use crate::{Device, Grads, Precision, Tape, Tensor, Var};

    fn log_softmax(row: &[f64]) -> Vec<f64> {
        let log_sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        row.iter().map(|x| x - log_sum).collect()
    }

    fn reference(a: &[f64], b: &[f64], classes: usize) -> f64 {
        let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        a.chunks(classes)
            .zip(b.chunks(classes))
            .map(|(a, b)| {
                let (p, q) = (log_softmax(a), log_softmax(b));
                kl(&p, &q) + kl(&q, &p)
            })
            .sum()
    }

    #[test]
    fn against_the_definition() {
        for (rows, classes) in [(4, 2), (3, 7), (2, 70)] {
            let mut case = Case::new();
            let a = case.input("a", &[rows, classes], noise(rows * classes, "a"));
            let b = case.input("b", &[rows, classes], noise(rows * classes, "b"));
            case.run(|tape| tape.symmetric_kl(&a, &b), |inputs| vec![reference(&inputs["a"], &inputs["b"], classes)]);
        }
    }

    #[test]
    fn one_distribution_twice_is_at_no_distance() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let logits = Tensor::from_vec(&device, &[2, 3], vec![1e3, -1e3, 0.0, 1.0, 2.0, 3.0]).unwrap();
        let a = tape.leaf("a", logits.clone());
        let loss = tape.symmetric_kl(&a, &Var::constant(logits)).unwrap();
        assert_eq!(loss.value().item(), Some(0.0));
        let mut grads = Grads::default();
        tape.backward(&loss, &mut grads).unwrap();
        assert_eq!(grads.dense("a").unwrap().unwrap().to_vec(), [0.0; 6]);
    }
}
