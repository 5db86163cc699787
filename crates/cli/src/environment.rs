//! The only place that asks the environment: where tokens are cached, whether colours are wanted, the default folders.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// What this process was started with.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Where tokens are kept between runs.
    pub(crate) cache: PathBuf,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
    /// Whether standard output may have colours.
    pub(crate) colour: bool,
    /// Whether standard error may have colours.
    pub(crate) error_colour: bool,
    /// The name of the best instruction set to use, instead of the best that is here: `LUTHIER_INSTRUCTIONS`, for trying
    /// what other processors do.
    pub(crate) instructions: Option<OsString>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn read() -> Environment {
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let plain = get("NO_COLOR").is_some() || get("TERM").is_some_and(|term| term == "dumb");
        let terminal = std::io::stdout().is_terminal();
        let error_colour = !plain && std::io::stderr().is_terminal();
        let instructions = get("LUTHIER_INSTRUCTIONS");
        Environment { cache: cache(&get), terminal, colour: terminal && !plain, error_colour, instructions }
    }
}

/// `LUTHIER_CACHE`, or a folder of ours where the desktop's convention has caches.
fn cache(get: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let path = |name: &str| get(name).map(PathBuf::from);
    // The convention says that a relative path in XDG_CACHE_HOME is to be ignored.
    let convention = path("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("luthier"));
    let home = || path("HOME").map(|home| home.join(".cache").join("luthier"));
    path("LUTHIER_CACHE").or(convention).or_else(home).unwrap_or_else(|| PathBuf::from(".luthier-cache"))
}

/// The run directory of a recipe: `runs/NAME`, under the current folder.
pub(crate) fn run_directory(recipe: &Path) -> PathBuf {
    Path::new("runs").join(recipe.file_stem().unwrap_or(recipe.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_convention() {
        let with = |pairs: &'static [(&str, &str)]| {
            cache(&move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("HOME", "/h")]), Path::new("/h/.cache/luthier"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/luthier"));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Path::new("/h/.cache/luthier"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("LUTHIER_CACHE", "c")]), Path::new("c"));
        assert_eq!(with(&[]), Path::new(".luthier-cache"));
    }

    #[test]
    fn a_run_is_named_after_its_recipe() {
        assert_eq!(run_directory(Path::new("a/b/intents.toml")), Path::new("runs/intents"));
    }
}
