//! Gradients: sums over a step's examples, one entry a trained parameter, under the parameter's path.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::error::{Result, ensure_shape};
use crate::kernels::parallel;
use crate::tensor::Tensor;

/// The gradient of one parameter.
#[derive(Debug, Clone)]
pub enum Grad {
    /// Every element.
    Dense(Tensor),
    /// Some rows of a table; the others are zero.
    Rows(RowGrad),
}

/// The gradient of a table of which few rows were read.
#[derive(Debug, Clone)]
pub struct RowGrad {
    /// The shape of the whole table, `[rows, width]`.
    pub shape: [usize; 2],
    /// The rows that `values` holds, ascending, each once.
    pub rows: Vec<u32>,
    /// `[rows.len(), width]`.
    pub values: Tensor,
}

/// Gradients by parameter path. Sums flow upward: [`Grads::scale`] is remembered and applied once, by whoever reads.
#[derive(Debug)]
pub struct Grads {
    entries: BTreeMap<String, Grad>,
    factor: f32,
    /// The sum of squares of what is stored, once somebody asked: both the log and clipping do.
    squares: std::cell::OnceCell<f64>,
}

impl Default for Grads {
    fn default() -> Self {
        Grads { entries: BTreeMap::new(), factor: 1.0, squares: std::cell::OnceCell::new() }
    }
}

impl RowGrad {
    /// Sums `values` (`[indices.len(), width]`) by row index.
    pub(crate) fn gather(device: &Device, shape: [usize; 2], indices: &[u32], values: &[f32]) -> RowGrad {
        let width = shape[1];
        let mut order: Vec<u32> = (0..indices.len() as u32).collect();
        // A stable sort: the rows of one index are added in the order in which they came.
        order.sort_by_key(|&i| indices[i as usize]);
        let mut rows: Vec<u32> = order.iter().map(|&i| indices[i as usize]).collect();
        rows.dedup();
        let mut out = Tensor::cleared(device, &[rows.len(), width]);
        let target = out.f32_mut();
        let mut slot = 0;
        for &i in &order {
            let i = i as usize;
            while rows[slot] != indices[i] {
                slot += 1;
            }
            let row = &mut target[slot * width..(slot + 1) * width];
            row.iter_mut().zip(&values[i * width..(i + 1) * width]).for_each(|(x, y)| *x += y);
        }
        RowGrad { shape, rows, values: out }
    }

    fn merge(self, other: RowGrad) -> RowGrad {
        let device = self.values.device().clone();
        let indices: Vec<u32> = self.rows.iter().chain(&other.rows).copied().collect();
        let values: Vec<f32> = [self.values.f32(), other.values.f32()].concat();
        RowGrad::gather(&device, self.shape, &indices, &values)
    }

    fn add_to(&self, dense: &mut [f32]) {
        let width = self.shape[1];
        for (&row, values) in self.rows.iter().zip(self.values.f32().chunks_exact(width.max(1))) {
            let target = &mut dense[row as usize * width..(row as usize + 1) * width];
            target.iter_mut().zip(values).for_each(|(x, y)| *x += y);
        }
    }
}

impl Grad {
    /// The elements as they are stored: all of them, or those of the rows that were touched.
    pub fn stored(&self) -> &Tensor {
        match self {
            Grad::Dense(t) => t,
            Grad::Rows(r) => &r.values,
        }
    }

    fn stored_mut(&mut self) -> &mut Tensor {
        match self {
            Grad::Dense(t) => t,
            Grad::Rows(r) => &mut r.values,
        }
    }

    /// The whole gradient as one tensor.
    pub fn to_dense(&self) -> Tensor {
        match self {
            Grad::Dense(t) => t.clone(),
            Grad::Rows(r) => {
                let mut dense = Tensor::cleared(r.values.device(), &r.shape);
                r.add_to(dense.f32_mut());
                dense
            }
        }
    }
}

impl Grads {
    /// The entries as stored, in path order, without the factor.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Grad)> {
        self.entries.iter().map(|(path, grad)| (path.as_str(), grad))
    }

    /// The stored gradient of a parameter, without the factor.
    pub fn get(&self, path: &str) -> Option<&Grad> {
        self.entries.get(path)
    }

    /// A parameter's gradient as one tensor, the factor applied.
    pub fn dense(&self, path: &str) -> Result<Option<Tensor>> {
        let Some(grad) = self.entries.get(path) else { return Ok(None) };
        let mut dense = grad.to_dense();
        if self.factor != 1.0 {
            dense.scale(self.factor)?;
        }
        Ok(Some(dense))
    }

    /// What every stored value is to be multiplied by.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Multiplies all gradients; nothing is touched, the factor is folded into the update.
    pub fn scale(&mut self, factor: f32) {
        self.factor *= factor;
    }

    /// Adds `weight * gradient` for one parameter.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&mut self, path: &str, weight: f32, gradient: &Tensor) -> Result<()> {
        self.squares.take();
        let weight = if self.factor == 0.0 { weight } else { weight / self.factor };
        let mut slot = match self.entries.remove(path) {
            Some(Grad::Dense(t)) => t,
            Some(rows) => rows.to_dense(),
            None => Tensor::cleared(gradient.device(), gradient.shape()),
        };
        slot.add_scaled(weight, gradient)?;
        self.entries.insert(path.to_owned(), Grad::Dense(slot));
        Ok(())
    }

    /// The Euclidean norm over all parameters, factor included.
    pub fn norm(&self) -> Result<f64> {
        let squares = match self.squares.get() {
            Some(&squares) => squares,
            None => {
                let mut sum = 0.0;
                for grad in self.entries.values() {
                    sum += grad.stored().sum_squares()?;
                }
                *self.squares.get_or_init(|| sum)
            }
        };
        Ok(squares.sqrt() * f64::from(self.factor.abs()))
    }

    /// Multiplies one parameter's gradient elementwise by a mask of its shape (rows that were not touched stay zero).
    pub fn mask(&mut self, path: &str, mask: &Tensor) -> Result<()> {
        self.squares.take();
        let Some(grad) = self.entries.get_mut(path) else { return Ok(()) };
        let mut dense = grad.to_dense();
        ensure_shape("mask", dense.shape() == mask.shape(), mask.shape(), || format!("{:?}", dense.shape()))?;
        parallel::zip(dense.f32_mut(), mask.f32(), |x, y| *x *= y);
        *grad = Grad::Dense(dense);
        Ok(())
    }

    /// Whether every gradient is finite.
    pub fn is_finite(&self) -> bool {
        self.factor.is_finite() && self.entries.values().all(|g| g.stored().is_finite())
    }

    /// Forgets one parameter's gradient.
    pub fn remove(&mut self, path: &str) {
        self.squares.take();
        self.entries.remove(path);
    }

    /// How many parameters have a gradient.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn add_dense(&mut self, path: &str, grad: Tensor) -> Result<()> {
        self.squares.take();
        match self.entries.get_mut(path) {
            None => {
                self.entries.insert(path.to_owned(), Grad::Dense(grad));
            }
            Some(Grad::Dense(sum)) => sum.add_scaled(1.0, &grad)?,
            Some(slot @ Grad::Rows(_)) => {
                let mut sum = grad;
                if let Grad::Rows(rows) = &*slot {
                    rows.add_to(sum.f32_mut());
                }
                *slot = Grad::Dense(sum);
            }
        }
        Ok(())
    }

    pub(crate) fn add_rows(&mut self, path: &str, grad: RowGrad) {
        self.squares.take();
        let merged = match self.entries.remove(path) {
            None => Grad::Rows(grad),
            Some(Grad::Rows(rows)) => Grad::Rows(rows.merge(grad)),
            Some(Grad::Dense(mut sum)) => {
                grad.add_to(sum.f32_mut());
                Grad::Dense(sum)
            }
        };
        self.entries.insert(path.to_owned(), merged);
    }

    /// Lends the dense slot of a parameter: `true` when it already holds a sum, `false` when it is stale memory.
    pub(crate) fn accumulate(
        &mut self,
        device: &Device,
        path: &str,
        shape: &[usize],
        write: impl FnOnce(&mut [f32], bool) -> Result<()>,
    ) -> Result<()> {
        self.squares.take();
        if let Some(slot @ Grad::Rows(_)) = self.entries.get_mut(path) {
            *slot = Grad::Dense(slot.to_dense());
        }
        match self.entries.get_mut(path) {
            Some(grad) => write(grad.stored_mut().f32_mut(), true),
            None => {
                let mut fresh = Tensor::stale(device, shape);
                write(fresh.f32_mut(), false)?;
                self.entries.insert(path.to_owned(), Grad::Dense(fresh));
                Ok(())
            }
        }
    }
}
