//! `luthier data`.

use anyhow::Result;
use luthier_train::inspect::inspect_data;
use luthier_train::parse::Source;

use crate::args::Recipe;
use crate::environment::Environment;
use crate::render;
use crate::screen::Screen;

/// Shows what the data of each stage looks like to the model.
pub(crate) fn data(arguments: &Recipe, environment: &Environment, screen: Screen) -> Result<()> {
    let resolved = Source::read(&arguments.recipe, &arguments.sets())?;
    let reports = inspect_data(&resolved, &environment.cache)?;
    if screen.json {
        return screen.document(&serde_json::json!({ "stages": reports }));
    }
    let shown = reports.iter().map(|stage| render::data::data(&stage.stage, &stage.report, screen.paint));
    screen.print(&shown.collect::<Vec<_>>().join("\n"))?;
    Ok(())
}
