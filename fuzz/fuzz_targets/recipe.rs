//! A recipe of any bytes is refused or resolved; what is resolved reads back as itself.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use luthier_train::parse::Source;

fuzz_target!(|bytes: &[u8]| {
    let resolve = |bytes: Vec<u8>| Source::new(Path::new("/recipes/recipe.toml"), bytes)?.resolve(&[]);
    match resolve(bytes.to_vec()) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(resolved) => {
            let again = resolve(resolved.to_toml_with_origins().into_bytes()).expect("a resolved recipe is a recipe");
            let json = |recipe| serde_json::to_value(recipe).expect("JSON");
            assert_eq!(json(&again.recipe), json(&resolved.recipe));
        }
    }
});
