//! The kernel in the matrix instructions of newer Intel processors (AMX): products of tiles of 16 x 32 by 32 x 16 bf16. The
//! intrinsics are not stable yet, so it is written in assembly.
//!
//! A panel is laid out as the instruction wants its right operand, and a rounded matrix as it wants the left one; a transpose,
//! which comes in panels too, is made one before ([`turn`]).

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::{MaybeUninit, offset_of};

use super::pack_avx512::transpose;
use super::{Block, Out, Start, WIDEST};

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
    assert!(a.step == 1 && (1..=WIDEST).contains(&out.cols), "operands for tiles");
    let depth = panel.len() / WIDEST;
    let (steps, rest) = (depth / TILE, depth % TILE);
    // What is left of the depth goes as one more step, filled up with zeros.
    let mut left = MaybeUninit::<Words<ROWS, TILE>>::uninit();
    let mut right = MaybeUninit::<Words<TILE, WIDEST>>::uninit();
    if rest > 0 {
        let right = right.write(Words([[0; WIDEST]; TILE]));
        right.0.as_flattened_mut()[..rest * WIDEST].copy_from_slice(&panel[steps * TILE * WIDEST..]);
    }
    let mut configured = 0;
    for first in (0..a.rows).step_by(ROWS) {
        let rows = (a.rows - first).min(ROWS);
        // A second tile without rows would be none: it does the first row again. All sums begin before any is stored, so both
        // store the same.
        let second = if rows > TILE { TILE } else { 0 };
        // SAFETY: the rows are `a`'s and `out`'s, the caller's promise, and a bias has `out.cols` numbers; the rest of a row is
        // `rest` words, and what lies beyond them is masked off. The panel has sixteen rows for every step, as has its rest.
        // The configuration is that of these rows and columns: it is loaded again where the rows are others.
        unsafe {
            if rest > 0 {
                let mask = ((1u32 << rest) - 1) as u16;
                for r in 0..rows {
                    let words = a.words.add((first + r) * a.row + steps * TILE);
                    let words = _mm512_maskz_loadu_epi32(mask, words.cast());
                    _mm512_store_si512(left.as_mut_ptr().cast::<__m512i>().add(r), words);
                }
            }
            let words = a.words.add(first * a.row);
            let to = out.data.add(first * out.stride);
            let step: *const u32 = if rest > 0 { left.as_ptr().cast() } else { std::ptr::null() };
            let (from, from_row) = match out.start {
                Start::Zero => (std::ptr::null(), 0),
                Start::Sum => (to.cast_const(), out.stride),
                // Every row of a tile is the same one.
                Start::Bias(bias) => (bias.as_ptr(), 0),
            };
            let tiles = Tiles {
                a: [words, words.add(second * a.row)],
                a_row: 4 * a.row,
                panel: panel.as_ptr(),
                steps,
                rest: [step, step.wrapping_add(second * TILE)],
                rest_panel: right.as_ptr().cast(),
                from: [from, from.wrapping_add(second * from_row)],
                from_row: 4 * from_row,
                out: [to, to.add(second * out.stride)],
                out_row: 4 * out.stride,
                wide: usize::from(out.cols > TILE),
            };
            if configured != rows {
                Config::new(rows, out.cols).load();
                configured = rows;
            }
            tiles.multiply();
        }
    }
    // SAFETY: AMX is here, and nothing is left in a tile.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
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

/// Up to 32 rows by a panel, as the assembly reads it: two tiles of rows, distances in bytes.
#[repr(C)]
struct Tiles {
    a: [*const u32; 2],
    a_row: usize,
    panel: *const u32,
    /// Steps of 16 words of depth.
    steps: usize,
    /// One step more, and its rows of the panel; null if there is none.
    rest: [*const u32; 2],
    rest_panel: *const u32,
    /// What the sums begin with; null if with zero.
    from: [*const f32; 2],
    from_row: usize,
    out: [*mut f32; 2],
    out_row: usize,
    /// Whether more than half of the panel's columns are wanted.
    wide: usize,
}

impl Config {
    /// For up to 32 rows by up to 32 columns.
    fn new(rows: usize, cols: usize) -> Config {
        let (upper, lower) = (rows.min(TILE), rows.saturating_sub(TILE).max(1));
        let (left, right) = (cols.min(TILE), cols.saturating_sub(TILE).max(1));
        let tiles = [
            (upper, left),
            (upper, right),
            (lower, left),
            (lower, right),
            (upper, TILE),
            (lower, TILE),
            (TILE, left),
            (TILE, right),
        ];
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, cols)) in tiles.into_iter().enumerate() {
            (config.rows[tile], config.row_bytes[tile]) = (rows as u8, 4 * cols as u16);
        }
        config
    }

    /// Makes it this thread's.
    ///
    /// # Safety
    /// AMX is here.
    unsafe fn load(&self) {
        // SAFETY: the caller's promise.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly)) };
    }
}

impl Tiles {
    /// The product. Sums are in tiles 0 to 3, rows of the left operand in 4 and 5, halves of the panel's in 6 and 7.
    ///
    /// # Safety
    /// The pointers are to as many rows and columns as the configuration of this thread's tiles says, of which two tiles of
    /// outputs the second may be the first row of the first; the rest is whole tiles.
    unsafe fn multiply(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "mov {p}, [{tiles} + {FROM}]",
                "test {p}, {p}",
                "jz 2f",
                "mov {q}, [{tiles} + {FROM} + 8]",
                "mov {row}, [{tiles} + {FROM_ROW}]",
                "tileloadd tmm0, [{p} + {row}*1]",
                "tileloadd tmm2, [{q} + {row}*1]",
                "test {wide}, {wide}",
                "jz 2f",
                "tileloadd tmm1, [{p} + {row}*1 + 64]",
                "tileloadd tmm3, [{q} + {row}*1 + 64]",
                "2:",
                "mov {p}, [{tiles} + {A}]",
                "mov {q}, [{tiles} + {A} + 8]",
                "mov {row}, [{tiles} + {A_ROW}]",
                "mov {panel}, [{tiles} + {PANEL}]",
                "mov {steps}, [{tiles} + {STEPS}]",
                "test {steps}, {steps}",
                "jz 5f",
                "3:",
                "test {wide}, {wide}",
                "jz 4f",
                // All columns.
                ".p2align 4",
                "22:",
                "tileloadd tmm4, [{p} + {row}*1]",
                "tileloadd tmm6, [{panel} + {panel_row}*1]",
                "tileloadd tmm7, [{panel} + {panel_row}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{q} + {row}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {p}, 64",
                "add {q}, 64",
                "add {panel}, {STEP}",
                "dec {steps}",
                "jnz 22b",
                "jmp 5f",
                // At most half of them.
                "4:",
                "tileloadd tmm4, [{p} + {row}*1]",
                "tileloadd tmm6, [{panel} + {panel_row}*1]",
                "tileloadd tmm5, [{q} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "add {p}, 64",
                "add {q}, 64",
                "add {panel}, {STEP}",
                "dec {steps}",
                "jnz 4b",
                // The rest is one step more.
                "5:",
                "test {rest}, {rest}",
                "jz 6f",
                "mov {p}, {rest}",
                "mov {q}, [{tiles} + {REST} + 8]",
                "mov {row:e}, 64",
                "mov {panel}, [{tiles} + {REST_PANEL}]",
                "mov {steps:e}, 1",
                "xor {rest:e}, {rest:e}",
                "jmp 3b",
                "6:",
                "mov {p}, [{tiles} + {OUT}]",
                "mov {q}, [{tiles} + {OUT} + 8]",
                "mov {row}, [{tiles} + {OUT_ROW}]",
                "tilestored [{p} + {row}*1], tmm0",
                "tilestored [{q} + {row}*1], tmm2",
                "test {wide}, {wide}",
                "jz 7f",
                "tilestored [{p} + {row}*1 + 64], tmm1",
                "tilestored [{q} + {row}*1 + 64], tmm3",
                "7:",
                tiles = in(reg) self,
                wide = in(reg) self.wide,
                rest = inout(reg) self.rest[0] => _,
                panel_row = in(reg) 4 * WIDEST,
                p = out(reg) _,
                q = out(reg) _,
                row = out(reg) _,
                panel = out(reg) _,
                steps = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                A = const offset_of!(Tiles, a),
                A_ROW = const offset_of!(Tiles, a_row),
                PANEL = const offset_of!(Tiles, panel),
                STEPS = const offset_of!(Tiles, steps),
                REST = const offset_of!(Tiles, rest),
                REST_PANEL = const offset_of!(Tiles, rest_panel),
                FROM = const offset_of!(Tiles, from),
                FROM_ROW = const offset_of!(Tiles, from_row),
                OUT = const offset_of!(Tiles, out),
                OUT_ROW = const offset_of!(Tiles, out_row),
                STEP = const 4 * TILE * WIDEST,
                options(nostack),
            );
        }
    }
}

/// Products of full tiles without touching memory: `times` rounds of 16 of them; the operations of one.
///
/// # Safety
/// AMX must be here, and the process must be allowed to use it.
pub(crate) unsafe fn burst(times: u64) -> u64 {
    let config = Config::new(ROWS, WIDEST);
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
