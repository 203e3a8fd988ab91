//! Why a command did not do what it should, told to people.

use std::io;

use davit_types::{ErrorKind, Kind};

/// davit or the daemon failed; as docker counts.
pub const FAILED: u8 = 125;
/// The program in the container cannot be run.
const NOT_RUNNABLE: u8 = 126;
/// The program in the container was not found.
const NOT_FOUND: u8 = 127;

/// What goes wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon, the way to it, or an image.
    #[error(transparent)]
    Client(#[from] davit_client::Error),
    /// Something that this machine would not do.
    #[error("{what}")]
    Io {
        /// A path, or what was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Words that make no sense here, with what would.
    #[error("{0}")]
    Usage(String),
    /// The container could not be started.
    #[error("container {id} did not start: {message}")]
    Start {
        /// Its name.
        id: String,
        /// What the daemon said.
        message: String,
    },
    /// davit was asked to stop.
    #[error("interrupted")]
    Interrupted {
        /// By which signal.
        signal: u32,
    },
    /// Some of several things did not work; each was told already.
    #[error("not everything was done")]
    Told,
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }

    /// The kind of what the daemon said; Unknown for what is not its.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Client(error) => error.kind(),
            _ => ErrorKind::Unknown,
        }
    }

    /// What davit ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { message, .. } => start_code(message),
            Self::Interrupted { signal } => 128 + *signal as u8,
            _ => FAILED,
        }
    }

    /// Whether each was told already, or nobody is left who would read it.
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Told => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }

    /// The whole message, with what may help.
    pub fn message(&self) -> String {
        use std::error::Error as _;
        let mut text = match self {
            Self::Client(error) => error.full_message(),
            _ => {
                let mut text = self.to_string();
                let mut source = self.source();
                while let Some(inner) = source {
                    text = format!("{text}: {inner}");
                    source = inner.source();
                }
                text
            }
        };
        if let Self::Client(davit_client::Error::Connect { address, .. }) = self {
            text = format!(
                "cannot reach davitd at {}: is it running? ({text})\n\
                 --address or DAVIT_ADDRESS names another socket.",
                address.display()
            );
        }
        text
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Client(status.into())
    }
}

/// Tells by a runtime's words whether it did not find the program, could not
/// run it, or failed otherwise. runc speaks as Go does, crun with strerror(3).
fn start_code(message: &str) -> u8 {
    let lower = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["exec format error"]) {
        return NOT_RUNNABLE;
    }
    if !says(&["exec: \"", "executable"]) {
        return FAILED;
    }
    if says(&["permission denied", "not a directory", "is a directory"]) {
        NOT_RUNNABLE
    } else if says(&["executable file", "no such file or directory"]) {
        NOT_FOUND
    } else {
        FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_have_dockers_codes() {
        for (message, code) in [
            (
                r#"runc create failed: unable to start container process: exec: "nope": executable file not found in $PATH: unknown"#,
                127,
            ),
            (r#"exec: "/nope": stat /nope: no such file or directory: unknown"#, 127),
            ("executable file `nope` not found in $PATH: No such file or directory", 127),
            (r#"exec: "/etc": permission denied: unknown"#, 126),
            (r#"exec: "/etc/passwd": permission denied"#, 126),
            ("fork/exec /no/such/runtime: No such file or directory (os error 2)", 125),
            ("exec /x: exec format error", 126),
            ("open executable: Permission denied", 126),
            ("mount /x: no such file or directory", 125),
            ("runtime \"io.containerd.nosuch.v9\" binary not installed", 125),
        ] {
            assert_eq!(start_code(message), code, "{message}");
        }
    }
}
