//! AdamW in one pass over a parameter, with the rows of a table that nothing touched left alone.

use crate::device::Device;
use crate::error::{Result, TensorError, ensure_shape};
use crate::grads::{Grad, RowGrad};
use crate::kernels::math::vectorised;
use crate::kernels::parallel;
use crate::tensor::Tensor;

/// AdamW (Loshchilov and Hutter 2019, "Decoupled weight decay regularization"), with PyTorch's bias correction and
/// place of epsilon.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// The step size.
    pub learning_rate: f32,
    /// The share of the old first moment that is kept in each step.
    pub beta1: f32,
    /// The share of the old second moment that is kept in each step.
    pub beta2: f32,
    /// Added to the root of the corrected second moment.
    pub epsilon: f32,
    /// Decoupled decay: a parameter shrinks by `learning_rate * weight_decay` of itself in each step.
    pub weight_decay: f32,
}

/// What AdamW remembers of one parameter.
#[derive(Debug)]
pub struct AdamWState {
    /// The running mean of the gradient.
    pub first: Tensor,
    /// The running mean of its square.
    pub second: Tensor,
    /// Which rows may have non-zero moments; `None` when all of them may.
    touched: Option<Vec<bool>>,
}

impl AdamWState {
    /// The state of a parameter that was never updated. Its memory costs nothing until it is written.
    pub fn new(device: &Device, shape: &[usize]) -> AdamWState {
        let first = Tensor::zeros(device, shape);
        let touched = Some(vec![false; first.rows()]);
        AdamWState { first, second: Tensor::zeros(device, shape), touched }
    }

    /// A state that was saved. [`AdamW::update`] checks that the two moments fit the parameter.
    pub fn restore(first: Tensor, second: Tensor) -> AdamWState {
        let width = first.width().max(1);
        let rows = first.f32().chunks_exact(width).zip(second.f32().chunks_exact(width));
        let touched = rows.map(|(first, second)| first.iter().chain(second).any(|&x| x != 0.0)).collect();
        AdamWState { first, second, touched: Some(touched) }
    }
}

/// The numbers of one step, computed in f64 and used in f32.
#[derive(Clone, Copy)]
struct Step {
    keep1: f32,
    take1: f32,
    keep2: f32,
    take2: f32,
    size: f32,
    /// The reciprocal of the root of the second moment's bias correction.
    correction: f32,
    epsilon: f32,
    decay: f32,
    factor: f32,
}

impl Step {
    fn new(settings: &AdamW, factor: f32, step: u64) -> Step {
        let (beta1, beta2) = (f64::from(settings.beta1), f64::from(settings.beta2));
        let rate = f64::from(settings.learning_rate);
        let step = step.max(1) as f64;
        Step {
            keep1: settings.beta1,
            take1: (1.0 - beta1) as f32,
            keep2: settings.beta2,
            take2: (1.0 - beta2) as f32,
            size: (rate / (1.0 - beta1.powf(step))) as f32,
            correction: (1.0 / (1.0 - beta2.powf(step)).sqrt()) as f32,
            epsilon: settings.epsilon,
            decay: (rate * f64::from(settings.weight_decay)) as f32,
            factor,
        }
    }

    /// One element. Decay and step are taken off together, so that the parameter is rounded once.
    #[inline(always)]
    fn element(&self, parameter: &mut f32, first: &mut f32, second: &mut f32, gradient: f32) {
        let g = gradient * self.factor;
        *first = first.mul_add(self.keep1, g * self.take1);
        *second = second.mul_add(self.keep2, g * g * self.take2);
        let ratio = *first / second.sqrt().mul_add(self.correction, self.epsilon);
        *parameter -= self.decay.mul_add(*parameter, self.size * ratio);
    }

    #[inline(always)]
    fn slice(&self, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        let moments = first.iter_mut().zip(second);
        for ((parameter, (first, second)), gradient) in parameter.iter_mut().zip(moments).zip(gradient) {
            self.element(parameter, first, second, *gradient);
        }
    }

    #[inline(always)]
    fn slice_without_gradient(&self, parameter: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        for ((parameter, first), second) in parameter.iter_mut().zip(first).zip(second) {
            self.element(parameter, first, second, 0.0);
        }
    }
}

/// Elements a task.
const CHUNK: usize = 1 << 14;

fn update_dense(step: Step, parameter: &mut Tensor, state: &mut AdamWState, gradient: &Tensor) {
    state.touched = None;
    let moments = state.first.f32_mut().chunks_mut(CHUNK).zip(state.second.f32_mut().chunks_mut(CHUNK));
    let parameters = parameter.f32_mut().chunks_mut(CHUNK).zip(gradient.f32().chunks(CHUNK));
    parallel::tasks(parameters.zip(moments).collect(), |((parameter, gradient), (first, second))| {
        vectorised(
            #[inline(always)]
            || step.slice(parameter, first, second, gradient),
        );
    });
}

fn update_rows(step: Step, parameter: &mut Tensor, state: &mut AdamWState, gradient: &RowGrad) {
    let [rows, width] = gradient.shape;
    if width == 0 {
        return;
    }
    if let Some(touched) = &mut state.touched {
        gradient.rows.iter().for_each(|&row| touched[row as usize] = true);
    }
    let touched = state.touched.as_deref();
    let values = gradient.values.f32();
    let per_block = parallel::rows_per_block(width);
    let block = per_block * width;
    let moments = state.first.f32_mut().chunks_mut(block).zip(state.second.f32_mut().chunks_mut(block));
    let blocks = parameter.f32_mut().chunks_mut(block).zip(moments).enumerate();
    parallel::tasks(blocks.collect(), |(index, (parameter, moments))| {
        let start = index * per_block;
        let mut slot = gradient.rows.partition_point(|&row| (row as usize) < start);
        vectorised(
            #[inline(always)]
            || {
                for row in start..(start + per_block).min(rows) {
                    let columns = (row - start) * width..(row - start + 1) * width;
                    let parameter = &mut parameter[columns.clone()];
                    if gradient.rows.get(slot) == Some(&(row as u32)) {
                        let gradient = &values[slot * width..(slot + 1) * width];
                        step.slice(parameter, &mut moments.0[columns.clone()], &mut moments.1[columns], gradient);
                        slot += 1;
                    } else if touched.is_none_or(|touched| touched[row]) {
                        step.slice_without_gradient(
                            parameter,
                            &mut moments.0[columns.clone()],
                            &mut moments.1[columns],
                        );
                    } else if step.decay != 0.0 {
                        // Its moments are zero and stay so: what is left of the update is the decay.
                        parameter.iter_mut().for_each(|x| *x -= step.decay * *x);
                    }
                }
            },
        );
    });
}

impl AdamW {
    /// One update with `factor * gradient`; `step` counts from 1, for the bias correction. A gradient by rows gives
    /// the same bits as the dense one with zeros elsewhere: a row that never had a gradient is only decayed.
    ///
    /// # Errors
    /// When the shapes of parameter, gradient and moments differ, one of them is not f32, or a gradient has a row that
    /// the parameter does not have.
    pub fn update(
        &self,
        parameter: &mut Tensor,
        gradient: &Grad,
        factor: f32,
        state: &mut AdamWState,
        step: u64,
    ) -> Result<()> {
        let op = "adamw";
        let shape = match gradient {
            Grad::Dense(gradient) => gradient.shape(),
            Grad::Rows(gradient) => &gradient.shape,
        };
        let wanted = || format!("a parameter {:?}", parameter.shape());
        for tensor in [&*parameter, gradient.stored(), &state.first, &state.second] {
            tensor.expect_f32(op)?;
        }
        for found in [shape, state.first.shape(), state.second.shape()] {
            ensure_shape(op, found == parameter.shape(), found, wanted)?;
        }
        if let Grad::Rows(RowGrad { shape: [len, _], rows, .. }) = gradient
            && let Some(&index) = rows.iter().find(|&&row| row as usize >= *len)
        {
            return Err(TensorError::Index { op, index: index as usize, len: *len });
        }
        let step = Step::new(self, factor, step);
        match gradient {
            Grad::Dense(gradient) => update_dense(step, parameter, state, gradient),
            Grad::Rows(gradient) => update_rows(step, parameter, state, gradient),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::noise;

    const SETTINGS: AdamW = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };

    fn tensor(shape: &[usize], stream: &str) -> Tensor {
        Tensor::from_vec(&Device::cpu(), shape, noise(shape.iter().product(), stream)).unwrap()
    }

    fn gradient(step: u64, rows: &[u32], indices: &[u32], width: usize) -> RowGrad {
        let shape = [rows.len(), width];
        RowGrad::gather(&Device::cpu(), shape, indices, &noise(indices.len() * width, &format!("g{step}")))
    }

    #[test]
    fn ten_steps_of_the_definition() {
        // Three pieces; the definition is written as the paper has it, the decay before the step.
        let n = 2 * CHUNK + 77;
        let mut parameter = tensor(&[n], "p");
        let start = parameter.clone();
        let mut state = AdamWState::new(&Device::cpu(), &[n]);
        let (rate, beta1, beta2) = (f64::from(0.01f32), f64::from(0.9f32), f64::from(0.999f32));
        let mut exact: Vec<[f64; 3]> = start.to_vec().iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect();
        for step in 1..=10u64 {
            let g = tensor(&[n], &format!("g{step}"));
            SETTINGS.update(&mut parameter, &Grad::Dense(g.clone()), 0.5, &mut state, step).unwrap();
            for ([p, m, v], g) in exact.iter_mut().zip(g.to_vec()) {
                let g = f64::from(g) * 0.5;
                *p *= 1.0 - rate * f64::from(0.1f32);
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let (m, v) = (*m / (1.0 - beta1.powi(step as i32)), *v / (1.0 - beta2.powi(step as i32)));
                *p -= rate * m / (v.sqrt() + 1e-8);
            }
        }
        let found = parameter.to_vec().into_iter().zip(state.first.to_vec()).zip(state.second.to_vec());
        for (i, (((p, m), v), exact)) in found.zip(&exact).enumerate() {
            assert!((f64::from(p) - exact[0]).abs() < 1e-6, "parameter {i} is {p}, not {}", exact[0]);
            assert!((f64::from(m) - exact[1]).abs() < 1e-6, "first moment {i} is {m}, not {}", exact[1]);
            assert!((f64::from(v) - exact[2]).abs() < 1e-6 * exact[2], "second moment {i} is {v}, not {}", exact[2]);
        }
        assert!(start.distance_squared(&parameter).unwrap() > 1.0, "nothing moved");
    }

    /// Ten steps in which different rows have gradients, by rows and dense, with a restored state half-way.
    fn both_ways(weight_decay: f32) -> (Tensor, AdamWState) {
        let settings = AdamW { weight_decay, ..SETTINGS };
        let (rows, width) = (500usize, 37);
        let mut dense = tensor(&[rows, width], "p");
        let mut sparse = dense.clone();
        let mut dense_state = AdamWState::new(&Device::cpu(), &[rows, width]);
        let mut sparse_state = AdamWState::new(&Device::cpu(), &[rows, width]);
        for step in 1..=10u64 {
            let indices = [499, 3, 3 + 40 * step as u32, 3, 77];
            let all: Vec<u32> = (0..rows as u32).collect();
            let gradient = Grad::Rows(gradient(step, &all, &indices, width));
            let whole = Grad::Dense(gradient.to_dense());
            settings.update(&mut dense, &whole, 0.7, &mut dense_state, step).unwrap();
            settings.update(&mut sparse, &gradient, 0.7, &mut sparse_state, step).unwrap();
            if step == 5 {
                sparse_state = AdamWState::restore(sparse_state.first.clone(), sparse_state.second.clone());
                let touched = sparse_state.touched.iter().flatten().filter(|&&touched| touched).count();
                assert_eq!(touched, 8, "five steps touched rows 3, 77, 499 and one of their own each");
            }
        }
        let bits = |t: &Tensor| t.to_vec().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(&dense) == bits(&sparse), "the parameters differ");
        assert!(bits(&dense_state.first) == bits(&sparse_state.first), "the first moments differ");
        assert!(bits(&dense_state.second) == bits(&sparse_state.second), "the second moments differ");
        (sparse, sparse_state)
    }

    #[test]
    fn rows_give_the_bits_of_the_dense_gradient() {
        let (parameter, state) = both_ways(0.0);
        let start = tensor(&[500, 37], "p");
        assert_eq!(parameter.to_vec()[..37], start.to_vec()[..37], "a row without gradients moved");
        assert_eq!(state.touched.iter().flatten().filter(|&&touched| touched).count(), 13);
        let (decayed, _) = both_ways(0.1);
        assert_ne!(decayed.to_vec()[..37], start.to_vec()[..37], "a row without gradients did not decay");
    }

    #[test]
    fn rows_after_a_dense_gradient_know_that_every_row_has_moments() {
        let settings = AdamW { weight_decay: 0.0, ..SETTINGS };
        let mut parameter = tensor(&[4, 3], "p");
        let mut state = AdamWState::new(&Device::cpu(), &[4, 3]);
        settings.update(&mut parameter, &Grad::Dense(tensor(&[4, 3], "g")), 1.0, &mut state, 1).unwrap();
        let before = parameter.to_vec();
        let rows = RowGrad::gather(&Device::cpu(), [4, 3], &[2], &[1.0; 3]);
        settings.update(&mut parameter, &Grad::Rows(rows), 1.0, &mut state, 2).unwrap();
        assert!(parameter.to_vec().iter().zip(&before).all(|(a, b)| a != b));
    }

    #[test]
    fn shapes_that_differ_are_named() {
        let mut parameter = tensor(&[4, 3], "p");
        let mut state = AdamWState::new(&Device::cpu(), &[4, 3]);
        let error = SETTINGS.update(&mut parameter, &Grad::Dense(tensor(&[3, 4], "g")), 1.0, &mut state, 1);
        assert_eq!(error.unwrap_err().to_string(), "adamw: the shape [3, 4] does not fit a parameter [4, 3]");
        let mut state = AdamWState::restore(tensor(&[4, 3], "m"), tensor(&[12], "v"));
        let error = SETTINGS.update(&mut parameter, &Grad::Dense(tensor(&[4, 3], "g")), 1.0, &mut state, 1);
        assert_eq!(error.unwrap_err().to_string(), "adamw: the shape [12] does not fit a parameter [4, 3]");
    }
}
