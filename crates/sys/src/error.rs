//! Errors for people: what failed, on what, why, and a hint that can be pasted.
//!
//! Internally, errors are `anyhow` chains whose contexts say what was being done. A [`Hint`] or an
//! [`ErrorKind`] can be attached at any level; the command line prints the chain and the outermost
//! hint, and exits with the code of the kind.

use std::fmt;

pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// Reason why a command did not end with 0; the discriminant is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorKind {
    /// The action failed.
    Failed = 1,
    /// The arguments were wrong.
    Usage = 2,
    /// The action was done, and the result differs from the declared state.
    NotAsDeclared = 3,
}

/// An error with the next command to run, or with its own kind.
#[derive(Debug)]
struct Marked {
    kind: Option<ErrorKind>,
    hint: Option<String>,
    error: Error,
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Marked {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.chain().nth(1)
    }
}

/// Attaches a hint or a kind to an error, or to a result that may be one.
pub trait Hint {
    /// The same type, with the mark attached.
    type Output;
    /// Adds a command to paste, or a sentence that says what to do.
    fn hint(self, hint: impl Into<String>) -> Self::Output;
    /// Sets the exit code.
    fn kind(self, kind: ErrorKind) -> Self::Output;
}

impl<T, E: Into<Error>> Hint for Result<T, E> {
    type Output = Result<T>;

    fn hint(self, hint: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().hint(hint))
    }

    fn kind(self, kind: ErrorKind) -> Result<T> {
        self.map_err(|error| error.into().kind(kind))
    }
}

impl Hint for Error {
    type Output = Self;

    fn hint(self, hint: impl Into<String>) -> Self {
        Self::new(Marked {
            kind: None,
            hint: Some(hint.into()),
            error: self,
        })
    }

    fn kind(self, kind: ErrorKind) -> Self {
        Self::new(Marked {
            kind: Some(kind),
            hint: None,
            error: self,
        })
    }
}

/// Returns the outermost hint of an error.
#[must_use]
pub fn hint_of(error: &Error) -> Option<&str> {
    marks(error).find_map(|mark| mark.hint.as_deref())
}

/// Returns the outermost kind of an error; [`ErrorKind::Failed`] where none was set.
#[must_use]
pub fn kind_of(error: &Error) -> ErrorKind {
    marks(error)
        .find_map(|mark| mark.kind)
        .unwrap_or(ErrorKind::Failed)
}

/// A mark hides the error that it wraps from `chain()`, so the search continues inside of each
/// mark.
fn marks(error: &Error) -> Box<dyn Iterator<Item = &Marked> + '_> {
    Box::new(
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<Marked>())
            .flat_map(|mark| std::iter::once(mark).chain(marks(&mark.error))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_survives_the_contexts_around_it() {
        let result: Result<()> = Err(anyhow!("no such agent"));
        let error = result
            .hint("spotkeep ls")
            .kind(ErrorKind::Usage)
            .context("cannot stop it")
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "cannot stop it: no such agent");
        assert_eq!(hint_of(&error), Some("spotkeep ls"));
        assert_eq!(kind_of(&error), ErrorKind::Usage);
    }

    #[test]
    fn causes_below_a_hint_are_printed() {
        let io = std::io::Error::other("disk gone");
        let result: Result<()> = Err(io).context("cannot read x").hint("look");
        assert_eq!(
            format!("{:#}", result.unwrap_err()),
            "cannot read x: disk gone"
        );
    }
}
