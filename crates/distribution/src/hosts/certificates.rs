//! Docker's way to say which certificates a registry has: files in its
//! directory, `*.crt` of authorities, `*.cert` of ours and `*.key` beside them.

use std::fs;
use std::path::Path;

use super::{Draft, Error};

/// What the files in `directory` say, sorted by name.
pub fn load(directory: &Path) -> Result<Draft, Error> {
    let failed = |source| Error::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Through links: that is how certificates are distributed.
        if !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    let mut draft = Draft::default();
    for file in files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => draft.host.tls.ca.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                let key = key
                    .try_exists()
                    .map_err(|source| Error::Read { path: key.clone(), source })?
                    .then_some(key);
                draft.host.tls.client.push((file, key));
            }
            _ => {}
        }
    }
    Ok(draft)
}
