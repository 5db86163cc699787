//! `luthier export`.

use anyhow::Result;
use luthier_record::Level;
use luthier_train::export::{LoadedBack, Target, export};
use luthier_train::opened::Run;

use crate::args;
use crate::render::number::counted;
use crate::render::plain::notice;
use crate::screen::Screen;

/// Writes a run for a library of Python.
pub(crate) fn run_export(arguments: &args::Export, screen: Screen) -> Result<()> {
    let run = Run::open(&arguments.run)?;
    let report = export(&run, target(arguments.to), &arguments.out)?;
    if screen.json {
        return screen.document(&report);
    }
    for text in &report.notes {
        screen.say(&notice(Level::Info, text, screen.paint));
    }
    let mut text = format!("{}\n", report.path.display());
    report.files.iter().for_each(|file| text.push_str(&format!("  {file}\n")));
    text.push_str(&loaded_back(&report.loaded_back));
    screen.print(&text)?;
    Ok(())
}

/// What loading the files back found.
fn loaded_back(found: &LoadedBack) -> String {
    let parameters = counted(found.parameters as u64, "parameter");
    let outputs = found.largest_difference.map(|most| format!("; outputs at most {most:.1e} apart"));
    format!("loaded back: {parameters} the same to the bit{}", outputs.unwrap_or_default())
}

fn target(target: args::Target) -> Target {
    match target {
        args::Target::Hf => Target::Hf,
        args::Target::Peft => Target::Peft,
        args::Target::Adapterhub => Target::Adapterhub,
    }
}
