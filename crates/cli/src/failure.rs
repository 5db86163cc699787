//! From an error to a sentence and an exit code.

use std::fmt;
use std::io;

use luthier_train::TrainError;

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed.
pub(crate) const FAILED: u8 = 1;
/// The arguments, the recipe or the data are wrong.
pub(crate) const WRONG_INPUT: u8 = 2;

/// Something that the person at the keyboard can put right, found by this crate itself.
#[derive(Debug)]
pub(crate) struct Wrong(pub(crate) String);

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// The exit code of an error; `None` where it is none: whoever read our output has heard enough.
pub(crate) fn exit_code(error: &anyhow::Error) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return (error.kind() != io::ErrorKind::BrokenPipe).then_some(FAILED);
    }
    let wrong = error.is::<Wrong>() || error.downcast_ref::<TrainError>().is_some_and(is_wrong_input);
    Some(if wrong { WRONG_INPUT } else { FAILED })
}

/// A file that is not there is a wrong path, on the command line or in the recipe.
fn is_wrong_input(error: &TrainError) -> bool {
    match error {
        TrainError::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
        TrainError::Stage { source, .. } => is_wrong_input(source),
        other => other.is_user_input(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        let io = |kind: io::ErrorKind| exit_code(&anyhow::Error::from(io::Error::from(kind)));
        assert_eq!(io(io::ErrorKind::BrokenPipe), None);
        assert_eq!(io(io::ErrorKind::StorageFull), Some(FAILED));
        assert_eq!(exit_code(&Wrong("no".into()).into()), Some(WRONG_INPUT));
        let data = luthier_data::DataError::Corpus("no".into());
        assert_eq!(exit_code(&TrainError::from(data).into()), Some(FAILED));
        let missing = luthier_data::Rows::open("nowhere.csv".as_ref(), None, Default::default()).err();
        assert_eq!(missing.map(|error| exit_code(&TrainError::from(error).into())), Some(Some(WRONG_INPUT)));
    }
}
