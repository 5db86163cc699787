//! SIGINT and SIGTERM: the first asks to stop after the step, the second stops at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether, and by what, this process was asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    asked: Arc<AtomicBool>,
    which: Arc<AtomicUsize>,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn listen() -> io::Result<Signals> {
        let signals = Signals { asked: Arc::default(), which: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the exit looks at the flag before this signal sets it.
            flag::register_conditional_shutdown(signal, i32::from(exit_code(signal)), signals.asked.clone())?;
            flag::register_usize(signal, signals.which.clone(), signal as usize)?;
            flag::register(signal, signals.asked.clone())?;
        }
        Ok(signals)
    }

    /// Whether a signal came.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The exit code for the signal that came: 130 or 143.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.which.load(Ordering::Relaxed) {
            0 => exit_code(SIGINT),
            signal => exit_code(signal as i32),
        }
    }
}

/// The shell's convention for a process that a signal ended.
fn exit_code(signal: i32) -> u8 {
    128 + signal as u8
}
