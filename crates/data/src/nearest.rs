//! "Did you mean ...?": the known name that is closest to an unknown one.

/// The candidate closest to `name`, if one is close enough to be what was meant.
///
/// Case, blanks and punctuation count for nothing; beyond that, at most a third of the letters may differ
/// (Damerau-Levenshtein distance).
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let name = plain(name);
    candidates
        .into_iter()
        .map(|candidate| {
            let other = plain(candidate);
            let longest = name.chars().count().max(other.chars().count());
            (strsim::damerau_levenshtein(&name, &other), longest, candidate)
        })
        .filter(|(distance, longest, _)| distance * 3 <= *longest)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

/// The same as part of a sentence: " (did you mean `text`?)", or nothing.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map(|found| format!(" (did you mean `{found}`?)")).unwrap_or_default()
}

/// A list for a message: at most `limit` names, then how many more there are.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>, limit: usize) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let mut text = names.iter().take(limit).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > limit {
        text.push_str(&format!(" and {} more", names.len() - limit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("Txet", ["label", "text"]), Some("text"));
        assert_eq!(nearest("card arrival", ["card_arrival", "card_linking"]), Some("card_arrival"));
        assert_eq!(nearest("zebra", ["label", "text"]), None);
        assert_eq!(nearest("", ["label"]), None);
        assert_eq!(listed(["a", "b", "c"], 2), "`a`, `b` and 1 more");
    }
}
