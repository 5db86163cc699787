//! The generator over several blocks side by side, a register of them at a time.

use luthier_random::{MULTIPLIERS, ROUNDS, Rng, WEYL};
use pulp::Simd;

/// How many blocks.
pub(crate) const LANES: usize = 16;

/// The words of some blocks of a stream: word `w` of block `blocks[i]` is `[w][i]`, to the bit what [`Rng::words`] says.
#[inline(always)]
pub(crate) fn words<S: Simd>(simd: S, rng: &Rng, blocks: &[u64; LANES]) -> [[u32; LANES]; 4] {
    // Loops and no `map`: its closures are not always compiled into the caller, and left alone they lose its instructions.
    let (mut key, [third, fourth]) = rng.state();
    let mut keys = [[0; 2]; ROUNDS];
    for now in &mut keys {
        *now = key;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    let multipliers = [simd.splat_u32s(MULTIPLIERS[0]), simd.splat_u32s(MULTIPLIERS[1])];
    let mut words = [[0; LANES]; 4];
    for (i, block) in blocks.iter().enumerate() {
        (words[0][i], words[1][i]) = (*block as u32, (block >> 32) as u32);
    }
    let [first, second, third_out, fourth_out] = &mut words;
    let first = S::as_mut_simd_u32s(first).0.iter_mut().zip(S::as_mut_simd_u32s(second).0);
    let last = S::as_mut_simd_u32s(third_out).0.iter_mut().zip(S::as_mut_simd_u32s(fourth_out).0);
    for ((a, b), (c, d)) in first.zip(last) {
        let mut counter = [*a, *b, simd.splat_u32s(third), simd.splat_u32s(fourth)];
        for key in keys {
            let (low, high) = simd.widening_mul_u32s(counter[0], multipliers[0]);
            let (low_2, high_2) = simd.widening_mul_u32s(counter[2], multipliers[1]);
            counter = [
                simd.xor_u32s(simd.xor_u32s(high_2, counter[1]), simd.splat_u32s(key[0])),
                low_2,
                simd.xor_u32s(simd.xor_u32s(high, counter[3]), simd.splat_u32s(key[1])),
                low,
            ];
        }
        [*a, *b, *c, *d] = counter;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Draw<'a>(&'a Rng, &'a [u64; LANES]);

    impl pulp::WithSimd for Draw<'_> {
        type Output = [[u32; LANES]; 4];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            words(simd, self.0, self.1)
        }
    }

    #[test]
    fn the_words_of_the_generator() {
        let rng = Rng::at(4, "dropout", 2, 9);
        let blocks: [u64; LANES] = std::array::from_fn(|i| ((i as u64) << 33) | (7 * i as u64));
        for found in [pulp::Arch::new().dispatch(Draw(&rng, &blocks)), pulp::Arch::Scalar.dispatch(Draw(&rng, &blocks))]
        {
            for (i, &block) in blocks.iter().enumerate() {
                assert_eq!(found.map(|words| words[i]), rng.words(block));
            }
        }
    }
}
