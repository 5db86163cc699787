//! The kernel in the matrix instructions of newer Intel processors (AMX): products of tiles of 16 x 32 by 32 x 16 bf16. The
//! intrinsics are not stable yet, so it is written in assembly.
//!
//! A panel is laid out as the instruction wants its right operand, and a rounded matrix as it wants the left one; a transpose,
//! which comes in panels too, is made one before ([`turn`]).

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::pack_avx512::transpose;
use super::x86::write;
use super::{Block, Out, WIDEST};

/// Rows of a tile, and words in one of its rows.
const TILE: usize = 16;
/// Rows that go together: two tiles of them by the two tiles of a panel.
const ROWS: usize = 2 * TILE;
/// What `ldtilecfg` reads: the bytes in a row and the rows of eight tiles.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// `R x C` words at the start of a cache line.
#[repr(C, align(64))]
struct Words<const R: usize, const C: usize>([[u32; C]; R]);

/// Whether the processor has AMX with bf16, and the system lets this process use it. Its registers are large, so Linux wants to
/// be asked, once for all threads; this asks, and asking again changes nothing.
pub(crate) fn is_here() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    features & BF16 != 0 && features & TILES != 0 && is_allowed()
}

#[cfg(target_os = "linux")]
fn is_allowed() -> bool {
    /// The number of `arch_prctl`, what is asked of it, and for what: the tiles' data.
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let mut answer = ARCH_PRCTL;
    // SAFETY: a system call that reads and writes no memory; it overwrites these registers.
    unsafe {
        asm!(
            "syscall",
            inout("rax") answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn is_allowed() -> bool {
    false
}

/// A block whose rows are contiguous by a panel, in bf16.
///
/// # Safety
/// As `portable::block`; AVX-512 and AMX must be here, and the process must be allowed to use it.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn block(a: Block, panel: &[u32], out: Out) {
    assert_eq!(a.step, 1, "a left operand for tiles");
    for first in (0..a.rows).step_by(ROWS) {
        let rows = (a.rows - first).min(ROWS);
        // SAFETY: the caller's promise; `first + rows` is at most `a.rows`.
        unsafe {
            let out = Out { data: out.data.add(first * out.stride), ..out };
            tiles((a.words.add(first * a.row), a.row, rows), panel, out);
        }
    }
}

/// Writes the columns of a panel as rows of `depth` words.
///
/// # Safety
/// AVX-512 must be here.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn turn(panel: &[u32], depth: usize, rows: &mut [u32]) {
    assert!(panel.len() == depth * WIDEST && rows.len() <= panel.len(), "columns of a panel");
    for l in (0..depth).step_by(TILE) {
        let here = (depth - l).min(TILE);
        let mask = ((1u32 << here) - 1) as u16;
        for half in 0..2 {
            let mut square = [_mm512_setzero_si512(); TILE];
            for (row, words) in square.iter_mut().zip(panel[l * WIDEST..].chunks_exact(WIDEST)) {
                // SAFETY: half of a panel's row is sixteen words.
                *row = unsafe { _mm512_loadu_si512(words[half * TILE..].as_ptr().cast()) };
            }
            let targets = rows.chunks_exact_mut(depth).skip(half * TILE);
            for (row, target) in transpose(square).into_iter().zip(targets) {
                // SAFETY: words beyond the row are masked off.
                unsafe { _mm512_mask_storeu_epi32(target[l..].as_mut_ptr().cast(), mask, row) };
            }
        }
    }
}

/// `rows` rows, 1 to 32 of them, by a panel.
///
/// # Safety
/// `a` covers `rows` rows, `row` words apart, of as many words as `panel` has rows, and `out` as many rows of outputs; AVX-512
/// and AMX are here.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tiles((a, row, rows): (*const u32, usize, usize), panel: &[u32], out: Out) {
    let depth = panel.len() / WIDEST;
    let whole = depth / TILE;
    // A second tile without rows would be none: it does the first row again, and what it gives is not read.
    let (upper, lower) = (rows.min(TILE), rows.saturating_sub(TILE).max(1));
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    for (tile, rows) in [upper, upper, lower, lower, upper, lower, TILE, TILE].into_iter().enumerate() {
        (config.row_bytes[tile], config.rows[tile]) = (4 * TILE as u16, rows as u8);
    }
    // What is left of the depth goes as one more step, filled up with zeros.
    let rest = depth - whole * TILE;
    let (mut left, mut right) =
        (MaybeUninit::<Words<ROWS, TILE>>::uninit(), MaybeUninit::<Words<TILE, WIDEST>>::uninit());
    if rest > 0 {
        let left = left.write(Words([[0; TILE]; ROWS]));
        for (r, words) in left.0.iter_mut().enumerate().take(rows) {
            // SAFETY: the row's words from `whole * 16` on.
            words[..rest].copy_from_slice(unsafe { std::slice::from_raw_parts(a.add(r * row + whole * TILE), rest) });
        }
        let right = right.write(Words([[0; WIDEST]; TILE]));
        right.0.as_flattened_mut()[..rest * WIDEST].copy_from_slice(&panel[whole * TILE * WIDEST..]);
    }
    let mut sums = MaybeUninit::<Words<ROWS, WIDEST>>::uninit();
    let second = if rows > TILE { a.wrapping_add(TILE * row) } else { a };
    // SAFETY: the tiles of `a` have `upper` and `lower` rows, those of the panel 16, of 64 bytes each, `whole` times; then
    // come the rests, if there are any, which have 32 and 16 rows. The sums have 32 rows of 128 bytes. Nothing else is touched, and the tiles
    // are given back.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{a} + {a_row}*1]",
            "tileloadd tmm6, [{b} + {wide}*1]",
            "tileloadd tmm7, [{b} + {wide}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{second} + {a_row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {second}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "test {rest}, {rest}",
            "jz 4f",
            "tileloadd tmm4, [{left} + {narrow}*1]",
            "tileloadd tmm5, [{left} + {narrow}*1 + 1024]",
            "tileloadd tmm6, [{right} + {wide}*1]",
            "tileloadd tmm7, [{right} + {wide}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "4:",
            "tilestored [{sums} + {wide}*1], tmm0",
            "tilestored [{sums} + {wide}*1 + 64], tmm1",
            "tilestored [{sums} + {wide}*1 + 2048], tmm2",
            "tilestored [{sums} + {wide}*1 + 2112], tmm3",
            "tilerelease",
            config = in(reg) &raw const config,
            steps = inout(reg) whole => _,
            a = inout(reg) a => _,
            second = inout(reg) second => _,
            a_row = in(reg) 4 * row,
            b = inout(reg) panel.as_ptr() => _,
            wide = in(reg) 4 * WIDEST,
            narrow = in(reg) 4 * TILE,
            rest = in(reg) rest,
            left = in(reg) &raw const left,
            right = in(reg) &raw const right,
            sums = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
        let sums: *const f32 = sums.as_ptr().cast();
        for r in 0..rows {
            let row = sums.add(r * WIDEST);
            let row = [_mm512_load_ps(row), _mm512_load_ps(row.add(TILE))];
            write([row], Out { data: out.data.add(r * out.stride), ..out });
        }
    }
}

/// Products of full tiles without touching memory: `times` rounds of 16 of them; the operations of one.
///
/// # Safety
/// AMX must be here, and the process must be allowed to use it.
pub(crate) unsafe fn burst(times: u64) -> u64 {
    let config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: std::array::from_fn(|tile| if tile < 8 { 4 * TILE as u16 } else { 0 }),
        rows: std::array::from_fn(|tile| if tile < 8 { TILE as u8 } else { 0 }),
    };
    // SAFETY: the caller's promise; the tiles are given back.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm6, tmm7", "tdpbf16ps tmm1, tmm6, tmm7", "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7", "tdpbf16ps tmm4, tmm6, tmm7", "tdpbf16ps tmm5, tmm6, tmm7",
            "tdpbf16ps tmm0, tmm6, tmm7", "tdpbf16ps tmm1, tmm6, tmm7", "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7", "tdpbf16ps tmm4, tmm6, tmm7", "tdpbf16ps tmm5, tmm6, tmm7",
            "tdpbf16ps tmm0, tmm6, tmm7", "tdpbf16ps tmm1, tmm6, tmm7", "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "dec {times}",
            "jnz 2b",
            "tilerelease",
            config = in(reg) &raw const config,
            times = inout(reg) times.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    (2 * TILE * TILE * 2 * TILE) as u64
}
