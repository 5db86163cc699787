//! Counter-based random numbers: every draw is a pure function of where it is used.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
//! A stream is named by a seed, a purpose, and two counters (a step and an index, say); drawing the `i`-th block of it
//! needs no state, so a resumed run, a second forward pass and another device all see the same numbers.

/// A stream of random numbers: a value that is copied, never mutated behind the caller's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
    high: [u32; 2],
}

/// What Philox multiplies with, and what it adds to its key from round to round.
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// See [`MULTIPLIERS`].
pub const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds of Philox.
pub const ROUNDS: usize = 10;

/// Ten rounds of Philox over one counter: four independent 32-bit words.
#[inline(always)]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Folds a word into a 64-bit state (the finaliser of SplitMix64: Steele, Lea and Flood 2014).
fn mix(state: u64, word: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_add(word.wrapping_mul(0xD1B5_4A32_D192_ED03));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn hash_name(name: &str) -> u64 {
    name.bytes().fold(name.len() as u64, |state, byte| mix(state, u64::from(byte)))
}

impl Rng {
    /// The stream for a purpose: `seed` is the run's, `stream` names the use (`"dropout"`, `"shuffle"`), `step` and
    /// `index` say when and where.
    pub fn at(seed: u64, stream: &str, step: u64, index: u64) -> Rng {
        let a = mix(seed, hash_name(stream));
        let b = mix(a ^ 0x5851_F42D_4C95_7F2D, mix(step, index));
        Rng { key: [a as u32, (a >> 32) as u32], high: [b as u32, (b >> 32) as u32] }
    }

    /// A stream inside this one, named by a string (a parameter's path, say).
    pub fn named(self, name: &str) -> Rng {
        self.indexed(hash_name(name))
    }

    /// A stream inside this one, named by a number.
    pub fn indexed(self, index: u64) -> Rng {
        let high = u64::from(self.high[0]) | u64::from(self.high[1]) << 32;
        let b = mix(high, index);
        Rng { key: self.key, high: [b as u32, (b >> 32) as u32] }
    }

    /// What Philox runs on for this stream: its key, and the upper half of its counter.
    #[inline(always)]
    pub fn state(&self) -> ([u32; 2], [u32; 2]) {
        (self.key, self.high)
    }

    /// The `block`-th four words of the stream.
    #[inline(always)]
    pub fn words(&self, block: u64) -> [u32; 4] {
        philox([block as u32, (block >> 32) as u32, self.high[0], self.high[1]], self.key)
    }

    /// The `i`-th 32-bit word of the stream.
    #[inline]
    pub fn word(&self, i: u64) -> u32 {
        self.words(i / 4)[(i % 4) as usize]
    }

    /// The `i`-th number of the stream, uniform in `[0, 1)`, with 53 bits (it uses words `2 i` and `2 i + 1`).
    pub fn uniform(&self, i: u64) -> f64 {
        let w = self.words(i / 2);
        let (a, b) = if i.is_multiple_of(2) { (w[0], w[1]) } else { (w[2], w[3]) };
        ((u64::from(a) << 32 | u64::from(b)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The `i`-th number of the stream, standard normal (Box and Muller 1958).
    pub fn normal(&self, i: u64) -> f64 {
        let (u, v) = (self.uniform(2 * i), self.uniform(2 * i + 1));
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// The `i`-th number of the stream, uniform in `0..n`; `n` is at least 1.
    /// The bias of the multiply-and-shift is below `n / 2^64`.
    pub fn below(&self, i: u64, n: u64) -> u64 {
        let w = self.words(i / 2);
        let (a, b) = if i.is_multiple_of(2) { (w[0], w[1]) } else { (w[2], w[3]) };
        ((u128::from(u64::from(a) << 32 | u64::from(b)) * u128::from(n.max(1))) >> 64) as u64
    }

    /// A permutation of `0..n` (Fisher and Yates).
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the Random123 library (philox4x32, 10 rounds).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_and_ranges() {
        let rng = Rng::at(7, "test", 0, 0);
        let n = 100_000;
        let mean = (0..n).map(|i| rng.uniform(i)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "uniform mean {mean}");
        let var = (0..n).map(|i| rng.normal(i).powi(2)).sum::<f64>() / n as f64;
        assert!((var - 1.0).abs() < 0.02, "normal variance {var}");
        assert!((0..n).all(|i| rng.below(i, 7) < 7));
    }

    #[test]
    fn streams_differ() {
        let base = Rng::at(1, "dropout", 0, 0);
        for other in
            [Rng::at(2, "dropout", 0, 0), Rng::at(1, "mask", 0, 0), Rng::at(1, "dropout", 1, 0), base.named("a")]
        {
            assert_ne!(base.words(0), other.words(0));
        }
    }

    #[test]
    fn permutation_is_one() {
        let mut p = Rng::at(3, "shuffle", 0, 0).permutation(1000);
        assert_ne!(p[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        p.sort_unstable();
        assert!(p.iter().enumerate().all(|(i, &x)| i as u32 == x));
    }
}
