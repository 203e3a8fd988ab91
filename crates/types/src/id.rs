//! Names that users choose: namespaces, containers, execs.
//!
//! The rule is containerd's (`pkg/identifiers`): 1 to 76 characters, runs of
//! ASCII letters and digits joined by single `.`, `_` or `-`. Such a name is
//! always one safe path component.

use std::fmt;

use crate::{ErrorKind, Kind};

const MAX_LENGTH: usize = 76;
const PATTERN: &str = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";

/// Why a name was refused. The texts are containerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing there.
    #[error("identifier must not be empty: invalid argument")]
    Empty,
    /// Over 76 characters.
    #[error(
        "identifier {0:?} greater than maximum length ({MAX_LENGTH} characters): invalid argument"
    )]
    TooLong(String),
    /// A character or a place of a separator that the rule forbids.
    #[error("identifier {0:?} must match {PATTERN}: invalid argument")]
    Malformed(String),
}

impl Kind for InvalidId {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

fn validate(name: &str) -> Result<(), InvalidId> {
    if name.is_empty() {
        return Err(InvalidId::Empty);
    }
    if name.len() > MAX_LENGTH {
        return Err(InvalidId::TooLong(name.to_owned()));
    }
    let well_formed = name
        .split(['.', '_', '-'])
        .all(|run| !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric()));
    if well_formed { Ok(()) } else { Err(InvalidId::Malformed(name.to_owned())) }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks `name` against the rule for identifiers.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidId> {
                let name = name.into();
                validate(&name)?;
                Ok(Self(name))
            }

            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(name: &str) -> Result<Self, InvalidId> {
                Self::new(name)
            }
        }
    };
}

identifier! {
    /// A tenant of the daemon: what is in one namespace cannot be seen from
    /// another.
    Namespace
}
identifier! {
    /// A container, or the task of the same name, within a namespace.
    ContainerId
}
identifier! {
    /// An additional process in a container.
    ExecId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_containerd_accepts() {
        for name in ["a", "default", "k8s.io", "Az-09_x.y", &"x".repeat(76)] {
            assert_eq!(Namespace::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_could_be_a_path_or_a_surprise() {
        for name in ["", ".", "..", "../a", "a/b", "a..b", "-a", "a-", "a b", "ä", "a\0", "a\n"] {
            assert!(ContainerId::new(name).is_err(), "{name:?} was accepted");
        }
        let long = "x".repeat(77);
        assert_eq!(ExecId::new(long.clone()), Err(InvalidId::TooLong(long)));
    }
}
