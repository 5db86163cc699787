//! The processor's instruction sets: which are here, and which are used.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::kernels::product::amx_is_here;

/// What the kernels are compiled for, the better the later. The best one that is here is used, found when the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Plain code.
    Portable,
    /// x86: 256-bit fused multiply-adds.
    Avx2,
    /// x86: 512-bit fused multiply-adds.
    Avx512,
    /// x86: 512-bit products of pairs of bf16.
    Avx512Bf16,
    /// x86: products of tiles of bf16. The processors that have them are slow at products of pairs.
    Amx,
}

static CURRENT: OnceLock<Instructions> = OnceLock::new();

impl Instructions {
    /// All of them, in order.
    pub const ALL: [Instructions; 5] =
        [Instructions::Portable, Instructions::Avx2, Instructions::Avx512, Instructions::Avx512Bf16, Instructions::Amx];

    /// The name that people type.
    pub fn name(self) -> &'static str {
        match self {
            Instructions::Portable => "portable",
            Instructions::Avx2 => "avx2",
            Instructions::Avx512 => "avx512",
            Instructions::Avx512Bf16 => "avx512bf16",
            Instructions::Amx => "amx",
        }
    }

    /// Whether they multiply bf16; if not, the same values are computed in f32, which takes longer than f32 itself.
    pub fn multiply_bf16(self) -> bool {
        self >= Instructions::Avx512Bf16
    }

    /// Those that this processor has.
    pub fn available() -> Vec<Instructions> {
        Instructions::ALL.into_iter().filter(|instructions| instructions.are_here()).collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn are_here(self) -> bool {
        match self {
            Instructions::Portable => true,
            Instructions::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Instructions::Avx512 => {
                Instructions::Avx2.are_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
            Instructions::Avx512Bf16 => Instructions::Avx512.are_here() && is_x86_feature_detected!("avx512bf16"),
            Instructions::Amx => Instructions::Avx512Bf16.are_here() && amx_is_here(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn are_here(self) -> bool {
        self == Instructions::Portable
    }

    /// Those in use: the best that are here, or what [`Instructions::limit`] left.
    pub fn current() -> Instructions {
        *CURRENT.get_or_init(|| Instructions::available().pop().unwrap_or(Instructions::Portable))
    }

    /// Uses nothing better than `most` in this process, so that one machine can try what another one does. To be called
    /// before anything is computed; `false` when that is too late.
    pub fn limit(most: Instructions) -> bool {
        let best = Instructions::available().into_iter().rfind(|&here| here <= most).unwrap_or(Instructions::Portable);
        *CURRENT.get_or_init(|| best) == best
    }
}
