//! Where tensors live, and the memory they live in.
//!
//! Buffers come from a pool that is warm after the first step: a buffer that is dropped goes back to a free list, so
//! that later steps neither fault pages in nor zero what they overwrite.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use crate::profile::{Clock, Profile, ProfileRow, Span};

/// A place to compute: today the CPU. Cheap to clone; clones share one memory pool.
#[derive(Clone, Default)]
pub struct Device {
    pool: Arc<Pool>,
    profile: Option<Arc<Profile>>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Device(cpu)")
    }
}

#[derive(Default)]
struct Pool {
    /// Free buffers by capacity class. A buffer keeps its whole class (and a line) as its length, so reuse never writes to it.
    free: Mutex<BTreeMap<usize, Vec<Memory>>>,
}

/// Below this many elements the allocator is as good as the pool.
const POOLED: usize = 1 << 10;
/// Elements of a cache line. A pooled buffer starts at one, so that no vector register's load touches two.
const LINE: usize = 16;

/// From this many elements on (2 MiB) memory comes in huge pages where the system has them: passes over large matrices
/// otherwise spend a good part of their time looking pages up.
const HUGE: usize = 1 << 19;

/// Zeroed memory from the system.
enum Memory {
    Heap(Vec<f32>),
    Pages(MmapMut),
}

impl Memory {
    fn zeroed(n: usize) -> Memory {
        let pages = (n >= HUGE).then(|| MmapMut::map_anon(n * size_of::<f32>()).ok()).flatten();
        let Some(pages) = pages else { return Memory::Heap(vec![0.0; n]) };
        // Advice that is not taken changes nothing.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        Memory::Pages(pages)
    }

    fn slice(&self) -> &[f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }

    fn slice_mut(&mut self) -> &mut [f32] {
        match self {
            Memory::Heap(values) => values,
            Memory::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

/// Capacity classes: eight steps to an octave, so at most an eighth of a buffer is unused.
fn class(n: usize) -> usize {
    let step = (n.next_power_of_two() >> 4).max(64);
    n.div_ceil(step) * step
}

impl Device {
    /// The CPU, with a memory pool of its own.
    pub fn cpu() -> Device {
        Device::default()
    }

    /// The same place, where every operation's time is taken by this clock.
    pub fn profiled(&self, clock: Clock) -> Device {
        Device { pool: self.pool.clone(), profile: Some(Arc::new(Profile::new(clock))) }
    }

    /// The same place, without a clock.
    pub fn unprofiled(&self) -> Device {
        Device { pool: self.pool.clone(), profile: None }
    }

    /// What operations took since [`Device::profiled`], the longest first.
    pub fn profile(&self) -> Vec<ProfileRow> {
        self.profile.as_ref().map(|profile| profile.rows()).unwrap_or_default()
    }

    /// Times what happens until the span is dropped, under a name.
    pub fn span(&self, name: &'static str) -> Span {
        Span::new(self.profile.as_ref(), name, false)
    }

    pub(crate) fn span_backward(&self, name: &'static str) -> Span {
        Span::new(self.profile.as_ref(), name, true)
    }

    /// Counts arithmetic of the operation under way.
    pub(crate) fn count(&self, operations: u64) {
        if let Some(profile) = &self.profile {
            profile.count(operations);
        }
    }

    /// A buffer of `n` elements with whatever a former user left in it (never uninitialised memory).
    pub(crate) fn take(&self, n: usize) -> Buffer {
        if n < POOLED {
            return Buffer { data: Memory::Heap(vec![0.0; n]), start: 0, len: n, home: None };
        }
        let class = class(n);
        let reused = {
            let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
            // A somewhat larger buffer will do: packed batches differ a little in size from step to step.
            let fit = free.range(class..=class + class / 2).next().map(|(&size, _)| size);
            fit.and_then(|size| {
                let list = free.get_mut(&size)?;
                let data = list.pop();
                if list.is_empty() {
                    free.remove(&size);
                }
                data
            })
        };
        let data = reused.unwrap_or_else(|| Memory::zeroed(class + LINE));
        let start = data.slice().as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Buffer { data, start, len: n, home: Some(self.clone()) }
    }

    fn give(&self, data: Memory) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(data.slice().len() - LINE).or_default().push(data);
    }
}

/// `len` elements, at home in a pool or on their own.
pub(crate) struct Buffer {
    data: Memory,
    start: usize,
    len: usize,
    home: Option<Device>,
}

impl Buffer {
    /// Wraps memory that is already there.
    pub(crate) fn own(data: Vec<f32>) -> Buffer {
        Buffer { start: 0, len: data.len(), data: Memory::Heap(data), home: None }
    }

    /// Zeros from the system, not from the pool: their pages cost nothing until they are touched.
    pub(crate) fn zeroed(n: usize) -> Buffer {
        Buffer { data: Memory::zeroed(n), start: 0, len: n, home: None }
    }

    pub(crate) fn slice(&self) -> &[f32] {
        &self.data.slice()[self.start..self.start + self.len]
    }

    pub(crate) fn slice_mut(&mut self) -> &mut [f32] {
        &mut self.data.slice_mut()[self.start..self.start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give(std::mem::replace(&mut self.data, Memory::Heap(Vec::new())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let device = Device::cpu();
        let mut first = device.take(5000);
        first.slice_mut()[17] = 3.0;
        let address = first.slice().as_ptr();
        drop(first);
        let second = device.take(4800);
        assert_eq!(second.slice().as_ptr(), address, "the pool did not hand the free buffer out again");
        assert_eq!(second.slice().len(), 4800);
        assert_eq!(address as usize % 64, 0, "a buffer does not start at a cache line");
        assert_ne!(device.take(4800).slice().as_ptr(), address, "one buffer was lent twice");
    }

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for n in [1024, 1025, 5000, 123_457, 11_720_448] {
            assert!(class(n) >= n && class(n) <= n + n / 8 + 64, "{n} -> {}", class(n));
        }
    }
}
