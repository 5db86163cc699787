//! Matrix products, by the `gemm` crate.

use rayon::current_num_threads;

/// A matrix in memory: `data[row * row_stride + col * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Mat<'a> {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// Below this many multiply-adds one thread is faster than two.
const PARALLEL: usize = 1 << 19;

/// `out = a b`, or `out += a b` with `accumulate`; `out` is `[a.rows, b.cols]`, its rows `out_stride` apart.
/// On several threads when the product is large enough and `parallel` allows it.
pub(crate) fn gemm(out: &mut [f32], out_stride: usize, accumulate: bool, scale: f32, a: Mat, b: Mat, parallel: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(a.cols, b.rows, "inner extents of a product");
    assert!(a.fits() && b.fits() && (m - 1) * out_stride + n <= out.len(), "a matrix outside its memory");
    let parallelism = if parallel && m * n * k >= PARALLEL && current_num_threads() > 1 {
        gemm::Parallelism::Rayon(0)
    } else {
        gemm::Parallelism::None
    };
    // SAFETY: the asserts above keep every address that the strides can form inside the three slices; `out` is
    // borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use luthier_random::Rng;

    fn noise(n: usize, stream: &str) -> Vec<f32> {
        let rng = Rng::at(1, stream, 0, 0);
        (0..n as u64).map(|i| rng.normal(i) as f32).collect()
    }

    #[test]
    fn against_f64_and_for_any_number_of_threads() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (65, 129, 300), (450, 384, 384), (33, 1536, 384)] {
            let (a, b) = (noise(m * k, "a"), noise(n * k, "b"));
            let mut out = vec![1.0f32; m * n];
            let run = |out: &mut [f32]| gemm(out, n, true, 0.5, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), true);
            crate::with_threads(2, || run(&mut out));
            for i in (0..m).step_by(1 + m / 13) {
                for j in (0..n).step_by(1 + n / 17) {
                    let exact: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum();
                    let error = (f64::from(out[i * n + j]) - (1.0 + 0.5 * exact)).abs();
                    assert!(error < 1e-5 * (k as f64).sqrt() * 4.0, "{m}x{n}x{k} at {i},{j}: {error}");
                }
            }
            for threads in [1, 3] {
                let mut again = vec![1.0f32; m * n];
                crate::with_threads(threads, || run(&mut again));
                assert!(out == again, "{m}x{n}x{k}: {threads} threads give other bits");
            }
        }
    }
}
