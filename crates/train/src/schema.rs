//! The JSON schema of a recipe, for editors and for the checks of [`crate::parse`].

use serde_json::Value;

use crate::recipe::Recipe;

/// The schema: every key with its description and its default.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Recipe).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), "A recipe of Luthier".into());
    }
    schema
}
