//! Rows of exponentials: what softmax, cross entropy, divergences and attention share. The functions are inlined into
//! loops that run inside `math::vectorised`.

use crate::kernels::math;

/// Running values side by side, so that one does not wait for another.
const LANES: usize = 32;
/// The same for what is left of a row: one vector.
const FEW: usize = 8;

/// The largest value; a NaN is passed over (the exponentials then carry it on), nothing gives negative infinity.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    let (chunks, rest) = rest.as_chunks::<FEW>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    for &x in rest {
        lanes[0] = larger(lanes[0], x);
    }
    fold(lanes, larger)
}

#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn sum(a: f32, b: f32) -> f32 {
    a + b
}

/// Brings the lanes together by halves, which vectorises.
#[inline(always)]
fn fold<const N: usize>(mut lanes: [f32; N], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Replaces every `x` by `exp(x - shift)` and returns the sum.
#[inline(always)]
pub(crate) fn exponentials(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = math::exp(*x - shift);
            *lane += *x;
        }
    }
    let (chunks, rest) = rest.as_chunks_mut::<FEW>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = math::exp(*x - shift);
            *lane += *x;
        }
    }
    for x in rest {
        *x = math::exp(*x - shift);
        lanes[0] += *x;
    }
    fold(lanes, sum)
}

/// The sum of `exp(x - shift)`, to the bit what [`exponentials`] returns.
#[inline(always)]
pub(crate) fn sum_of_exponentials(values: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += math::exp(x - shift);
        }
    }
    let (chunks, rest) = rest.as_chunks::<FEW>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += math::exp(x - shift);
        }
    }
    for &x in rest {
        lanes[0] += math::exp(x - shift);
    }
    fold(lanes, sum)
}

/// The sum of products.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const WIDTH: usize = LANES / 2;
    let mut lanes = [0.0f32; WIDTH];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDTH>(), b.as_chunks::<WIDTH>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..WIDTH {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for (x, y) in a_rest.iter().zip(b_rest) {
        lanes[0] += x * y;
    }
    fold(lanes, sum)
}

/// Replaces a row by its softmax and returns its largest value and the logarithm of the sum of `exp(x - largest)`.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) -> (f32, f64) {
    let largest = max(row);
    let sum = exponentials(row, largest);
    let factor = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= factor);
    (largest, f64::from(sum).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::math::vectorised;
    use crate::ops::check::noise;

    #[test]
    fn rows_of_every_length_against_f64() {
        for n in [1, 2, 31, 32, 33, 100, 1000] {
            let row: Vec<f32> = noise(n, "row").iter().map(|x| 20.0 * x + 300.0).collect();
            let largest = row.iter().fold(f32::MIN, |a, &b| a.max(b));
            let sum: f64 = row.iter().map(|&x| f64::from(x - largest).exp()).sum();
            let mut out = row.clone();
            let (found, log_sum) = vectorised(|| softmax(&mut out));
            assert_eq!(found, largest);
            assert!((log_sum - sum.ln()).abs() < 1e-6, "{n}: {log_sum} against {}", sum.ln());
            let direct = vectorised(|| sum_of_exponentials(&row, largest));
            assert!((f64::from(direct) / sum - 1.0).abs() < 1e-6);
            for (y, &x) in out.iter().zip(&row) {
                let exact = f64::from(x - largest).exp() / sum;
                assert!((f64::from(*y) - exact).abs() < 1e-6, "{y} against {exact}");
            }
        }
    }

    #[test]
    fn a_nan_is_carried_on() {
        let mut row = [1.0, f32::NAN, 2.0];
        softmax(&mut row);
        assert!(row.iter().all(|x| x.is_nan()));
    }
}
