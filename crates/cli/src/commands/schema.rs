//! `luthier schema`.

use anyhow::Result;

use crate::screen::Screen;

/// The JSON schema of a recipe; with `--json` on one line.
pub(crate) fn schema(screen: Screen) -> Result<()> {
    let schema = luthier_train::schema::schema();
    if screen.json {
        return screen.document(&schema);
    }
    screen.print(&serde_json::to_string_pretty(&schema)?)?;
    Ok(())
}
