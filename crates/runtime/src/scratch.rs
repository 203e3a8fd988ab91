//! Directories for checkpoints on their way.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use davit_types::Namespace;

use crate::bundle::{hidden_name, make_directory, remove_hidden};
use crate::{Config, Error, Tasks};

/// A private directory beside the working directories of a namespace's tasks.
/// It is deleted with what is in it when it is dropped, or when the daemon
/// starts the next time.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves it to `target`, on the same file system, where it stays.
    pub(crate) fn keep_as(&self, target: &Path) -> Result<(), Error> {
        std::fs::rename(&self.0, target).map_err(|source| Error::Io {
            operation: "move a checkpoint to",
            path: target.to_owned(),
            source,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_hidden(&self.0) {
            log::warn!(path:? = self.0, error:% = error; "cannot remove a checkpoint's directory");
        }
    }
}

impl Tasks {
    /// Makes an empty private directory (mode 0700) for a checkpoint. Blocks.
    pub fn scratch(&self, namespace: &Namespace) -> Result<Scratch, Error> {
        make(self.config(), namespace)
    }
}

fn make(config: &Config, namespace: &Namespace) -> Result<Scratch, Error> {
    let parent = config.root.join(namespace.as_str());
    make_directory(&parent, 0o711, true)?;
    let path = hidden_name(&parent.join("checkpoint"));
    DirBuilder::new().mode(0o700).create(&path).map_err(|source| Error::Io {
        operation: "create",
        path: path.clone(),
        source,
    })?;
    Ok(Scratch(path))
}
