//! `luthier methods`.

use anyhow::Result;
use luthier_data::nearest::did_you_mean;
use serde_json::{Map, json};

use crate::args::Methods;
use crate::failure::Wrong;
use crate::kinds::groups;
use crate::render::methods::{all, one};
use crate::screen::Screen;

/// Lists what a recipe can say, or shows the keys of one kind.
pub(crate) fn methods(arguments: &Methods, screen: Screen) -> Result<()> {
    let groups = groups()?;
    let Some(name) = &arguments.name else {
        if screen.json {
            let by_key: Map<_, _> = groups.iter().map(|group| (group.key.to_owned(), json!(group.kinds))).collect();
            return screen.document(&by_key);
        }
        screen.print(&all(&groups, screen.paint))?;
        return Ok(());
    };
    let every = || groups.iter().flat_map(|group| group.kinds.iter().map(move |kind| (group, kind)));
    let Some((group, kind)) = every().find(|(_, kind)| kind.name == *name) else {
        let names: Vec<&str> = every().map(|(_, kind)| kind.name.as_str()).collect();
        let nearest = did_you_mean(name, names.iter().copied());
        return Err(Wrong(format!("found no method `{name}`{nearest}, expected one of: {}", names.join(", "))).into());
    };
    match screen.json {
        true => screen.document(kind),
        false => Ok(screen.print(&one(group, kind, screen.paint))?),
    }
}
