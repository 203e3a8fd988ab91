//! What an image runs on, how people write it, and which of several platforms
//! suits a machine best (containerd's `platforms`).

use std::fmt;

use crate::{ErrorKind, Kind};

mod host;
mod matcher;
mod names;
mod windows;

pub use matcher::Matcher;

/// What an image runs on (OCI image index, `platform`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`: Go's names.
    pub architecture: String,
    /// `v7`, `v8`; empty where the architecture has none.
    pub variant: String,
    /// Windows' build, empty elsewhere.
    pub os_version: String,
    /// What else the operating system must have: `win32k`.
    pub os_features: Vec<String>,
}

/// A string that is no platform. The texts are containerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlatform {
    /// A `*` somewhere.
    #[error("{0:?}: wildcards not yet supported: invalid argument")]
    Wildcard(String),
    /// The first part, which is an operating system or an architecture.
    #[error(
        "{part:?} is an invalid OS component of {whole:?}: OSAndVersion specifier component must \
         match {OS_PATTERN:?}: invalid argument"
    )]
    Os {
        /// The part.
        part: String,
        /// All of it.
        whole: String,
    },
    /// What stands in parentheses behind the system cannot be read.
    #[error("{whole:?} has an invalid OS {what} {option:?}: invalid URL escape {escape:?}")]
    Option {
        /// `version` or `feature`.
        what: &'static str,
        /// As written.
        option: String,
        /// The part of it that is wrong.
        escape: String,
        /// All of it.
        whole: String,
    },
    /// Another part.
    #[error(
        "{part:?} is an invalid component of {whole:?}: platform specifier component must match \
         {PART_PATTERN:?}: invalid argument"
    )]
    Part {
        /// The part.
        part: String,
        /// All of it.
        whole: String,
    },
    /// One part, which nobody knows.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// More than three parts.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    TooLong(String),
}

const OS_PATTERN: &str = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$";
const PART_PATTERN: &str = "^[A-Za-z0-9_.-]+$";

impl Kind for InvalidPlatform {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

impl Platform {
    /// A platform without versions and features of its system.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
    }

    /// The machine that this runs on, with the variant of an ARM processor.
    pub fn host() -> Self {
        host::platform()
    }

    /// Reads what people type: `linux/arm/v7`, `windows(10.0.17763)/amd64`,
    /// `linux`, `aarch64`. What is left out is this machine's.
    ///
    /// # Errors
    /// containerd's, in its words.
    pub fn parse(text: &str) -> Result<Self, InvalidPlatform> {
        let whole = || text.to_owned();
        if text.contains('*') {
            return Err(InvalidPlatform::Wildcard(whole()));
        }
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let mut platform = parse_os(parts[0], text)?;
        if let Some(part) = parts[1..].iter().find(|part| !is_part(part)) {
            return Err(InvalidPlatform::Part { part: (*part).to_owned(), whole: whole() });
        }
        let (architecture, variant) = match parts[..] {
            [_] if names::is_known_os(&platform.os) => {
                let host = Self::host();
                let says_more = host.architecture == "arm" && host.variant != "v7";
                let variant = if says_more { host.variant } else { String::new() };
                (host.architecture, variant)
            }
            [part] => {
                let (architecture, variant) = names::architecture(part, "");
                if !names::is_known_architecture(&architecture) {
                    return Err(InvalidPlatform::Unknown(whole()));
                }
                platform.os = names::HOST_OS.to_owned();
                without_default(architecture, variant)
            }
            [_, architecture] => {
                let (architecture, variant) = names::architecture(architecture, "");
                without_default(architecture, variant)
            }
            [_, architecture, variant] => match names::architecture(architecture, variant) {
                (architecture, variant) if architecture == "arm64" && variant.is_empty() => {
                    (architecture, "v8".to_owned())
                }
                both => both,
            },
            _ => return Err(InvalidPlatform::TooLong(whole())),
        };
        (platform.architecture, platform.variant) = (architecture, variant);
        Ok(platform)
    }

    /// The form that platforms are compared in: `aarch64` is `arm64`, `arm` is
    /// `arm/v7`, `amd64/v1` is `amd64`, no system is this machine's.
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = names::architecture(&self.architecture, &self.variant);
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        let (os, os_version) = (names::os(&self.os), self.os_version.clone());
        Self { os, architecture, variant, os_version, os_features }
    }

    /// As [`Display`](fmt::Display), with the system's version and features.
    pub fn to_full_string(&self) -> String {
        let mut options = escaped(&self.os_version);
        let mut features: Vec<&String> =
            self.os_features.iter().filter(|feature| !feature.is_empty()).collect();
        features.sort();
        for feature in features {
            options.push('+');
            options.push_str(&escaped(feature));
        }
        if self.os.is_empty() || options.is_empty() {
            return self.to_string();
        }
        Self { os: format!("{}({options})", self.os), ..self.clone() }.to_string()
    }

    /// Whether it names no platform at all but marks what is no image:
    /// attestations are `unknown/unknown`.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

/// What is understood without being said.
fn without_default(architecture: String, variant: String) -> (String, String) {
    let default = architecture == "arm" && variant == "v7";
    (architecture, if default { String::new() } else { variant })
}

fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `windows(10.0.17763+win32k)`
fn parse_os(part: &str, whole: &str) -> Result<Platform, InvalidPlatform> {
    let whole = whole.to_owned();
    let Some((name, version, features)) = split_os(part) else {
        return Err(InvalidPlatform::Os { part: part.to_owned(), whole });
    };
    let read = |what: &'static str, option: &str| {
        unescaped(option).map_err(|escape| InvalidPlatform::Option {
            what,
            option: option.to_owned(),
            escape,
            whole: whole.clone(),
        })
    };
    let os_version = read("version", version)?;
    let features = features.into_iter().map(|feature| read("feature", feature));
    let os_features = features.collect::<Result<_, _>>()?;
    Ok(Platform { os: names::os(name), os_version, os_features, ..Platform::default() })
}

/// The name, the version and the features of a system, still escaped.
fn split_os(part: &str) -> Option<(&str, &str, Vec<&str>)> {
    let (name, options) = match part.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')')?),
        None => (part, ""),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let is_option = |b: u8| is_name(b) || matches!(b, b'.' | b'%');
    let mut options = options.split('+');
    let version = options.next().unwrap_or_default();
    let features: Vec<&str> = options.collect();
    let fine = !name.is_empty()
        && name.bytes().all(is_name)
        && version.bytes().all(is_option)
        && features.iter().all(|option| !option.is_empty() && option.bytes().all(is_option));
    fine.then_some((name, version, features))
}

/// An option of a system with everything escaped that could not be read again.
/// containerd escapes what has a meaning of its own: `%+()/`.
fn escaped(option: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let escape = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    option.bytes().map(escape).collect()
}

/// An option with what is escaped in it put back, or what cannot be. Text
/// that is no UTF-8 then is as wrong as a digit that is none.
fn unescaped(option: &str) -> Result<String, String> {
    let mut parts = option.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("%{}", &part[..part.len().min(2)]))?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map_err(|_| option.to_owned())
}

#[cfg(test)]
mod tests;
