//! Finding and reading what is in the directories.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Error;

/// Stands for every registry that has no directory of its own.
const DEFAULT: &str = "_default";
/// The longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// The directory that is about `domain`, if there is one.
pub fn find(directories: &[PathBuf], domain: &str) -> Result<Option<PathBuf>, Error> {
    for root in directories.iter().filter(|root| !root.as_os_str().is_empty()) {
        for name in names(domain) {
            let path = root.join(name);
            match fs::metadata(&path) {
                Ok(_) => return Ok(Some(path)),
                Err(error) if is_missing(&error) => {}
                Err(source) => return Err(Error::Read { path, source }),
            }
        }
    }
    Ok(None)
}

/// What a registry's directory may be called; a colon cannot be in every name.
fn names(domain: &str) -> Vec<String> {
    let mut names = vec![domain.to_owned(), DEFAULT.to_owned()];
    if let Some((host, port)) = domain.rsplit_once(':').filter(|(host, _)| !host.is_empty()) {
        names.insert(0, format!("{host}_{port}_"));
    }
    names
}

/// What is in a file; `None` where there is no such file or nothing in it.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        let reason = format!("longer than {MAX_FILE} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
