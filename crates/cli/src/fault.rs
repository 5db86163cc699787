//! A panic is a fault of Luthier's own: one sentence that asks for a report, and exit code 1.

use std::io::{self, Write};
use std::panic::PanicHookInfo;

use crate::failure::FAILED;

/// Says the sentence and exits, from whichever thread it is that panics; but a panic of the `tokenizers` crate over a broken
/// file is an error like others, and goes its way.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        if luthier_data::panics_are_errors() {
            return;
        }
        let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
        let _ = writeln!(io::stderr(), "{}", sentence(message(info), place.as_deref().unwrap_or("an unknown place")));
        std::process::exit(i32::from(FAILED));
    }));
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn sentence(message: &str, place: &str) -> String {
    format!(
        "error: a fault in Luthier itself, not in your recipe or data; please report it with the command, the recipe and \
         this: version {}, {place}: {message}",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_asks_for_a_report() {
        let text = sentence("index out of range", "crates/nn/src/plan.rs:7");
        assert!(text.contains("please report it") && text.ends_with("crates/nn/src/plan.rs:7: index out of range"));
        assert!(!text.contains('\n'));
    }
}
