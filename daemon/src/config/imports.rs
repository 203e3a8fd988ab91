//! Reading a file and those it imports.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::apply::{apply, version};
use super::document::Document;
use super::error::ConfigError;
use super::{Config, VERSION};

/// Bytes of one configuration file. Nothing that people write is near it.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// Reads `path` and what it imports, one after the other, each once, over the
/// defaults.
///
/// # Errors
/// As [`Config::load`].
pub fn load(path: &Path) -> Result<(Config, Vec<String>), ConfigError> {
    let mut config = Config::default();
    let mut warnings = Vec::new();
    let mut pending = VecDeque::from([path.to_owned()]);
    let mut seen = BTreeSet::new();
    let mut first_version = None;
    while let Some(path) = pending.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = read(&path)?;
        let document = Document::parse(&path, &text)?;
        let version = version(&document)?;
        let first = *first_version.get_or_insert(version);
        if version > first {
            let words =
                format!("drop-in config version {version} higher than root config version {first}");
            return Err(document.root().invalid("version", &words));
        }
        if version < VERSION {
            warnings.push(format!(
                "{}: version {version} of the format is read as version {VERSION}; \
                 `davitd config migrate` prints it as such",
                path.display()
            ));
        }
        let imports = apply(&document, &mut config, &mut warnings)?;
        pending.extend(resolve(&path, &imports)?);
    }
    Ok((config, warnings))
}

/// Reads a file's text, within a limit.
///
/// # Errors
/// It cannot be read, is too large, or is no text.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_SIZE {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// The files that import patterns stand for. Relative ones start at the
/// directory of the importing file; only those with a `*` are patterns
/// (containerd, `resolveImports`).
fn resolve(parent: &Path, patterns: &[String]) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = parent.parent().unwrap_or(Path::new(""));
    let mut found = Vec::new();
    for pattern in patterns {
        let path = directory.join(pattern);
        if !pattern.contains('*') {
            found.push(path);
            continue;
        }
        let text = path.to_string_lossy();
        let files = glob::glob(&text)
            .map_err(|source| ConfigError::Pattern { pattern: pattern.clone(), source })?;
        // A directory that cannot be looked into matches nothing, as in Go.
        found.extend(files.flatten());
    }
    Ok(found)
}
