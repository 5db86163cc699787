//! Counted time, by operation. It costs nothing unless somebody asked for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Seconds since some moment. Lent by the caller: the engine knows no clock.
pub type Clock = Arc<dyn Fn() -> f64 + Send + Sync>;

/// What one operation took.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileRow {
    /// The operation; its backward pass is one of its own.
    pub name: String,
    /// How often.
    pub calls: u64,
    /// Seconds in it, without those in operations that it called.
    pub seconds: f64,
    /// Multiplications and additions of its products, counted from their shapes.
    pub operations: u64,
}

/// Gathers the time of operations of one thread at a time.
pub(crate) struct Profile {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<(&'static str, bool), ProfileRow>,
    /// The operations under way, outermost first: seconds and arithmetic of what they called.
    open: Vec<(f64, u64)>,
}

impl Profile {
    pub(crate) fn new(clock: Clock) -> Profile {
        Profile { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was gathered, the longest first.
    pub(crate) fn rows(&self) -> Vec<ProfileRow> {
        let mut rows: Vec<ProfileRow> = self.state().rows.values().cloned().collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }

    /// Counts arithmetic of the operation under way.
    pub(crate) fn count(&self, operations: u64) {
        if let Some((_, count)) = self.state().open.last_mut() {
            *count += operations;
        }
    }
}

/// An operation under way; its time counts when it is dropped.
#[must_use]
pub struct Span(Option<Running>);

struct Running {
    profile: Arc<Profile>,
    key: (&'static str, bool),
    began: f64,
}

impl Span {
    pub(crate) fn new(profile: Option<&Arc<Profile>>, name: &'static str, backward: bool) -> Span {
        Span(profile.map(|profile| {
            profile.state().open.push((0.0, 0));
            Running { profile: profile.clone(), key: (name, backward), began: (profile.clock)() }
        }))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(Running { profile, key, began }) = self.0.take() else { return };
        let seconds = (profile.clock)() - began;
        let mut state = profile.state();
        let (inner, operations) = state.open.pop().unwrap_or_default();
        if let Some((outer, _)) = state.open.last_mut() {
            *outer += seconds;
        }
        let row = state.rows.entry(key).or_insert_with(|| ProfileRow {
            name: format!("{}{}", key.0, if key.1 { ", backward" } else { "" }),
            calls: 0,
            seconds: 0.0,
            operations: 0,
        });
        row.calls += 1;
        row.seconds += seconds - inner;
        row.operations += operations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn the_time_of_what_is_called_is_its_own() {
        let ticks = Arc::new(AtomicU64::new(0));
        let clock = ticks.clone();
        let profile = Arc::new(Profile::new(Arc::new(move || clock.load(Ordering::Relaxed) as f64)));
        for _ in 0..2 {
            let _outer = Span::new(Some(&profile), "outer", false);
            ticks.fetch_add(1, Ordering::Relaxed);
            let inner = Span::new(Some(&profile), "inner", true);
            ticks.fetch_add(5, Ordering::Relaxed);
            profile.count(7);
            drop(inner);
            profile.count(2);
        }
        let rows: Vec<_> = profile.rows().into_iter().map(|r| (r.name, r.calls, r.seconds, r.operations)).collect();
        assert_eq!(rows, [("inner, backward".to_owned(), 2, 10.0, 14), ("outer".to_owned(), 2, 2.0, 4)]);
    }
}
