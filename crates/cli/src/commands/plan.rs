//! `luthier plan`.

use std::time::Instant;

use anyhow::Result;
use luthier_train::explain::explain;
use luthier_train::parse::Source;

use crate::args::Recipe;
use crate::render;
use crate::screen::Screen;

/// Shows what a recipe would do.
pub(crate) fn plan(arguments: &Recipe, screen: Screen) -> Result<()> {
    let resolved = Source::read(&arguments.recipe, &arguments.sets())?;
    let start = Instant::now();
    let clock = || start.elapsed().as_secs_f64();
    let report = explain(&resolved.recipe, &|block| Ok(Some(block.measure(&clock)?)))?;
    if screen.json {
        return screen.document(&report);
    }
    screen.print(&render::plan::plan(&report, screen.paint))?;
    Ok(())
}
