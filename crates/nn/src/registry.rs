//! Registries: a kind is one file and one line, and a wrong name is answered with the nearest right one.

/// Where a kind comes from; what it does stands above its type, and in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct About {
    /// Who proposed it, and when.
    pub paper: &'static str,
    /// Where to read it.
    pub link: &'static str,
}

/// The known name most like `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .map(|(_, candidate)| candidate)
}

/// Makes the tagged enum of a registry: `kind = "lora"` in a recipe becomes `Enum::Lora(lora::Lora)`.
///
/// One line a kind: its name in recipes, its variant, its type. The macro derives reading, writing and the schema, lists
/// the kinds, makes each with its defaults, and lends each as the trait object that the registry is about.
#[macro_export]
macro_rules! registry {
    ($(#[$meta:meta])* $registry:ident as $object:path { $($name:literal => $variant:ident($type:ty),)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(tag = "kind")]
        #[allow(missing_docs)]
        pub enum $registry { $(#[serde(rename = $name)] $variant($type),)+ }

        impl $registry {
            /// The names of all kinds, in the order in which they are registered.
            pub const KINDS: &'static [&'static str] = &[$($name),+];

            /// This one's name.
            pub fn kind(&self) -> &'static str {
                match self { $($registry::$variant(_) => $name,)+ }
            }

            /// Every kind with its defaults.
            pub fn all() -> Vec<$registry> {
                vec![$($registry::$variant(<$type>::default()),)+]
            }

            /// This one as what the registry is about.
            pub fn get(&self) -> &(dyn $object + 'static) {
                match self { $($registry::$variant(inner) => inner,)+ }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("lorra", ["bitfit", "lora", "full"]), Some("lora"));
        assert_eq!(nearest("rnak", ["rank", "alpha"]), Some("rank"));
        assert_eq!(nearest("quantum", ["bitfit", "lora", "full"]), None);
    }
}
