//! How fast this machine trains: measured on a piece of a layer, since no specification of a processor tells.

use luthier_nn::{Activation, Device, Grads, Precision, Tape, Tensor, Var};

use crate::error::Result;

/// A feed-forward block, as the layers of a stage have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The precision of its products.
    pub precision: Precision,
    /// Tokens that go through it at once.
    pub tokens: usize,
    /// The width of the residual stream.
    pub width: usize,
    /// The width between its two maps.
    pub inner: usize,
}

/// The most tokens that are measured: more of them do not go faster.
const MOST: usize = 1024;
/// How long is measured, in seconds, and at least how often; the first time is not counted, since memory is new then.
const SECONDS: f64 = 0.2;
const TIMES: usize = 3;

impl Block {
    /// Operations a second, forward and backward, as they go through a step: with what packing, rounding and the activation
    /// take. `clock` gives seconds. The median of several times, so that other work on the machine counts as it will.
    ///
    /// # Errors
    /// None that a block with extents of at least one can have.
    pub fn measure(self, clock: &dyn Fn() -> f64) -> Result<f64> {
        let Block { precision, width, inner, .. } = self;
        let tokens = self.tokens.clamp(1, MOST);
        let device = Device::cpu();
        let filled = |shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            // Small numbers of both signs, none of them subnormal.
            Tensor::from_vec(&device, shape, (0..n).map(|i| ((i * 31 % 97) as f32 - 48.0) / 1000.0).collect())
        };
        let (x, up, down) = (filled(&[tokens, width])?, filled(&[inner, width])?, filled(&[width, inner])?);
        let targets = vec![0; tokens];
        let mut times = Vec::new();
        let start = clock();
        while times.len() <= TIMES || clock() - start < SECONDS {
            let begun = clock();
            let (mut tape, mut grads) = (Tape::new(&device, precision), Grads::default());
            let [x, up, down]: [Var; 3] =
                [("x", &x), ("up", &up), ("down", &down)].map(|(name, value)| tape.leaf(name, value.clone()));
            let middle = tape.linear_narrow(&x, &up, None, Activation::Gelu)?;
            let y = tape.linear(&middle, &down, None, None)?;
            let loss = tape.cross_entropy(&y, &targets)?;
            tape.backward(&loss, &mut grads)?;
            times.push(clock() - begun);
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        // Two maps, each a product forward and two backward.
        let operations = 2 * 3 * 2 * tokens * width * inner;
        Ok(operations as f64 / times[times.len() / 2].max(f64::MIN_POSITIVE))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_clock_that_ticks_gives_the_rate_by_hand() -> Result<()> {
        // Half a second a look: one at the start, two for every time and one between them.
        let now = Cell::new(0.0);
        let clock = || {
            now.set(now.get() + 0.5);
            now.get()
        };
        let block = Block { precision: Precision::F32, tokens: 3, width: 8, inner: 16 };
        // Six products of 2 * 3 * 8 * 16 operations.
        assert_eq!(block.measure(&clock)?, 6.0 * 768.0 / 0.5);
        // More tokens than are measured: the rate is that of the most.
        let many = Block { tokens: 100_000, width: 1, inner: 1, ..block };
        assert_eq!(many.measure(&clock)?, 6.0 * 2.0 * 1024.0 / 0.5);
        Ok(())
    }
}
