//! The command line with which daemons call shims, in the syntax of Go's
//! `flag` package: one dash or two, `-x=y` or `-x y`, flags before the action.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What the shim is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a serving process and print its address.
    Start,
    /// Clean up after a dead shim and print the exit status.
    Delete,
    /// Serve; what `start` runs.
    Serve,
    /// Print the version.
    Version,
    /// Print a `RuntimeInfo` message.
    Info,
}

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What is asked for.
    pub action: Action,
    /// `-namespace`: the namespace that owns the container.
    pub namespace: String,
    /// `-id`: the container's id.
    pub id: String,
    /// `-address`: the daemon's gRPC socket.
    pub address: String,
    /// `-publish-binary`: the daemon's binary, whose command `publish` takes
    /// events where there is no ttrpc socket.
    pub publish_binary: String,
    /// `-bundle`: the bundle, where it is not the working directory.
    pub bundle: PathBuf,
    /// `-socket`: where to serve, instead of on an inherited listener.
    pub socket: String,
    /// `-sealed-runtime`: standard output is a copy of the runtime, and of what;
    /// between `start` and the serving process.
    pub sealed_runtime: String,
    /// `-debug`: log more.
    pub debug: bool,
}

/// A command line that cannot be understood. The words are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A flag without its value at the end.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A flag that is on or off, with something else.
    #[error("invalid boolean value {value:?} for -{flag}: parse error")]
    NotBool {
        /// The flag.
        flag: String,
        /// What it was given.
        value: String,
    },
    /// Only dashes, or nothing before `=`.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// Every action but `-v` and `-info` needs one.
    #[error("shim namespace cannot be empty")]
    NoNamespace,
    /// Names that would lead out of the directories they are used in.
    #[error("invalid {what} {value:?}")]
    InvalidName {
        /// `namespace` or `id`.
        what: &'static str,
        /// What it was given.
        value: String,
    },
}

/// Parses arguments, without the program's name.
///
/// # Errors
/// See [`UsageError`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut flags = Flags::default();
    let mut args =
        args.into_iter().map(|arg| String::from_utf8_lossy(&arg.into_vec()).into_owned());
    let mut action = None;
    while let Some(arg) = args.next() {
        if arg == "--" {
            action = args.next();
            break;
        }
        if arg == "-" || !arg.starts_with('-') {
            action = Some(arg);
            break;
        }
        let name = arg.strip_prefix("--").or(arg.strip_prefix('-')).unwrap_or(&arg);
        if name.is_empty() || name.starts_with(['-', '=']) {
            return Err(UsageError::Syntax(arg));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        flags.set(name, value, &mut args)?;
    }
    flags.finish(action.as_deref())
}

#[derive(Default)]
struct Flags {
    namespace: String,
    id: String,
    address: String,
    publish_binary: String,
    bundle: String,
    socket: String,
    sealed_runtime: String,
    debug: bool,
    version: bool,
    info: bool,
    ignored: String,
}

impl Flags {
    fn set(
        &mut self,
        name: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), UsageError> {
        let switch = match name {
            "debug" => Some(&mut self.debug),
            "v" | "version" => Some(&mut self.version),
            "info" => Some(&mut self.info),
            _ => None,
        };
        if let Some(switch) = switch {
            *switch = value.map_or(Ok(true), |value| parse_bool(name, value))?;
            return Ok(());
        }
        let text = match name {
            "namespace" => &mut self.namespace,
            "id" => &mut self.id,
            "address" => &mut self.address,
            "publish-binary" => &mut self.publish_binary,
            "bundle" => &mut self.bundle,
            "socket" => &mut self.socket,
            "sealed-runtime" => &mut self.sealed_runtime,
            "debug-socket" => &mut self.ignored,
            _ => return Err(UsageError::Unknown(name.to_owned())),
        };
        *text = match value {
            Some(value) => value,
            None => rest.next().ok_or_else(|| UsageError::NoValue(name.to_owned()))?,
        };
        Ok(())
    }

    fn finish(self, action: Option<&str>) -> Result<Invocation, UsageError> {
        let action = match action {
            _ if self.version => Action::Version,
            _ if self.info => Action::Info,
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            // As the Go shim: anything else serves.
            _ => Action::Serve,
        };
        if !matches!(action, Action::Version | Action::Info) {
            if self.namespace.is_empty() {
                return Err(UsageError::NoNamespace);
            }
            check_name("namespace", &self.namespace)?;
            check_name("id", &self.id)?;
        }
        Ok(Invocation {
            action,
            namespace: self.namespace,
            id: self.id,
            address: self.address,
            publish_binary: self.publish_binary,
            bundle: self.bundle.into(),
            socket: self.socket,
            sealed_runtime: self.sealed_runtime,
            debug: self.debug,
        })
    }
}

/// The names become parts of paths: of the socket's hash, of the bundle's
/// neighbour. The daemon has checked them; whoever runs us by hand has not.
fn check_name(what: &'static str, value: &str) -> Result<(), UsageError> {
    let bad = value == "." || value == ".." || value.contains(['/', '\0']) || value.len() > 255;
    match bad {
        true => Err(UsageError::InvalidName { what, value: value.to_owned() }),
        false => Ok(()),
    }
}

/// Go's `strconv.ParseBool`.
fn parse_bool(flag: &str, value: String) -> Result<bool, UsageError> {
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(UsageError::NotBool { flag: flag.to_owned(), value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_as_daemons_write_them() {
        let parsed = run(
            "-namespace k8s.io --address /run/x.sock -publish-binary=/bin/c -id a1 -debug start",
        )
        .unwrap();
        assert_eq!(parsed.action, Action::Start);
        assert_eq!(parsed.namespace, "k8s.io");
        assert_eq!(parsed.address, "/run/x.sock");
        assert_eq!(parsed.publish_binary, "/bin/c");
        assert_eq!(parsed.id, "a1");
        assert!(parsed.debug);
        let parsed = run("-namespace n -id a -bundle /b -debug=false delete").unwrap();
        assert_eq!((parsed.action, parsed.debug), (Action::Delete, false));
        assert_eq!(parsed.bundle, PathBuf::from("/b"));
        assert_eq!(run("-v").unwrap().action, Action::Version);
        assert_eq!(run("-info").unwrap().action, Action::Info);
        assert_eq!(run("-namespace n -id a").unwrap().action, Action::Serve);
    }

    #[test]
    fn mistakes_are_named_in_go_s_words() {
        let text = |line| run(line).unwrap_err().to_string();
        assert_eq!(text("-nope"), "flag provided but not defined: -nope");
        assert_eq!(text("-id"), "flag needs an argument: -id");
        assert_eq!(
            text("-debug=maybe -id x"),
            "invalid boolean value \"maybe\" for -debug: parse error"
        );
        assert_eq!(text("---id"), "bad flag syntax: ---id");
        assert_eq!(text("-id x start"), "shim namespace cannot be empty");
        assert_eq!(text("-namespace ../n -id x start"), "invalid namespace \"../n\"");
        assert_eq!(text("-namespace n -id .. delete"), "invalid id \"..\"");
    }
}
