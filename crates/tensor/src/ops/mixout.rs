//! Mixout (Lee, Cho and Kang 2020, "Mixout: effective regularization to finetune large-scale pretrained language
//! models"): dropout towards the pretrained weight rather than towards zero.

use luthier_random::Rng;
use rayon::prelude::*;

use crate::error::{Result, ensure_shape};
use crate::kernels::math::vectorised;
use crate::ops::dropout::{Keep, scan};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Elements a task, a multiple of the eight of a random block.
const CHUNK: usize = 1 << 14;

/// Calls `f` with a place in `values`, the pieces that start there, and the mask's factors of their elements: 0, or
/// `1 / (1 - p)` where the weight is kept.
fn masked(keep: Keep, rng: Rng, values: &mut [f32], f: impl Fn(usize, &mut [f32], &[f32]) + Sync) {
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, values)| {
        let first = i * CHUNK;
        vectorised(
            #[inline(always)]
            || {
                scan(
                    keep,
                    rng,
                    (first / 8) as u64,
                    values.len(),
                    #[inline(always)]
                    |range, scales| f(first + range.start, &mut values[range], scales),
                );
            },
        );
    });
}

impl Tape {
    /// `((1 - m) base + m weight - p base) / (1 - p)` with `m` Bernoulli of `1 - p`, an element at a time: its expectation
    /// is `weight`. `p` is resolved to 1/65536; at 0 this is `weight` itself, at 1 (the limit) it is `base`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn mixout(&mut self, weight: &Var, base: &Tensor, p: f32, rng: Rng) -> Result<Var> {
        let _span = self.device().span("mixout");
        let op = "mixout";
        weight.value().expect_f32(op)?;
        base.expect_f32(op)?;
        ensure_shape(op, base.shape() == weight.value().shape(), base.shape(), || {
            format!("a weight {:?}", weight.value().shape())
        })?;
        let keep = Keep::new(p);
        if keep.is_all() {
            return Ok(weight.clone());
        }
        // The definition says: base where m = 0, base + (weight - base) / (1 - p) where m = 1.
        let mut out = Tensor::stale(self.device(), base.shape());
        let (weights, bases) = (weight.f32(), base.f32());
        masked(
            keep,
            rng,
            out.f32_mut(),
            #[inline(always)]
            |start, out, scales| {
                let inputs = weights[start..].iter().zip(&bases[start..]);
                for ((out, (weight, base)), scale) in out.iter_mut().zip(inputs).zip(scales) {
                    *out = (weight - base).mul_add(*scale, *base);
                }
            },
        );
        let to = weight.node();
        Ok(self.record("mixout", out, weight.needs_grad(), || {
            move |mut gradient: Tensor, flow| {
                masked(
                    keep,
                    rng,
                    gradient.f32_mut(),
                    #[inline(always)]
                    |_, gradient, scales| gradient.iter_mut().zip(scales).for_each(|(g, scale)| *g *= scale),
                );
                flow.add(to, gradient)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Case, noise};
    use crate::{Device, Precision};

    /// Whether the weight stays, by the definition of the mask, an element at a time.
    fn kept(rng: Rng, p: f64, i: usize) -> f64 {
        let word = rng.word(i as u64 / 2);
        let bits = if i.is_multiple_of(2) { word & 0xffff } else { word >> 16 };
        f64::from(u8::from(f64::from(bits) >= p * 65536.0))
    }

    #[test]
    fn values_and_gradients() {
        let (p, rng) = (0.25, Rng::at(2, "mixout", 0, 0));
        let mut case = Case::new();
        let base = noise(21 * 10, "base");
        let weight = case.input("weight", &[21, 10], noise(210, "weight"));
        let base_tensor = Tensor::from_vec(&case.device, &[21, 10], base.clone()).unwrap();
        case.run(
            |tape| tape.mixout(&weight, &base_tensor, p as f32, rng),
            |inputs| {
                (0..210)
                    .map(|i| {
                        let (m, base) = (kept(rng, p, i), f64::from(base[i]));
                        ((1.0 - m) * base + m * inputs["weight"][i] - p * base) / (1.0 - p)
                    })
                    .collect()
            },
        );
    }

    #[test]
    fn pieces_of_a_large_weight_share_no_mask() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let rng = Rng::at(2, "mixout", 0, 0);
        let weight = Var::constant(Tensor::full(&device, &[CHUNK * 2 + 5], 1.0));
        let mixed = tape.mixout(&weight, &Tensor::zeros(&device, &[CHUNK * 2 + 5]), 0.5, rng).unwrap();
        assert!(tape.is_empty());
        for (i, x) in mixed.value().to_vec().into_iter().enumerate() {
            assert_eq!(f64::from(x), 2.0 * kept(rng, 0.5, i), "element {i}");
        }
    }

    #[test]
    fn the_ends_of_p_and_other_shapes() {
        let device = Device::cpu();
        let mut tape = Tape::new(&device, Precision::F32);
        let rng = Rng::at(2, "mixout", 0, 0);
        let weight = tape.leaf("w", Tensor::full(&device, &[40], 1.0));
        let base = Tensor::full(&device, &[40], 3.0);
        assert_eq!(tape.mixout(&weight, &base, 0.0, rng).unwrap().node(), weight.node());
        assert_eq!(tape.mixout(&weight, &base, 1.0, rng).unwrap().value().to_vec(), vec![3.0; 40]);
        let error = tape.mixout(&weight, &Tensor::full(&device, &[2], 3.0), 0.5, rng).unwrap_err().to_string();
        assert_eq!(error, "mixout: the shape [2] does not fit a weight [40]");
    }
}
