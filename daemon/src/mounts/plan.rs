//! Deciding which mounts are the daemon's to make, and making them.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::SystemTime;

use davit_types::Mount;

use super::error::MountError;
use super::transform::{Roots, Transform};
use super::{ActiveMount, MOUNTS_MAX};

/// The types that the daemon has a way of its own for.
const HANDLED: [&str; 1] = ["erofs"];

/// A mount and what is to be done to it first.
struct Step {
    transforms: Vec<Transform>,
    mount: Mount,
}

/// What is to be made here, and what is left for the client.
pub struct Plan {
    steps: Vec<Step>,
    /// The first that the client makes.
    first_system: usize,
    temporary: bool,
}

impl Plan {
    /// Reads the mounts' types: `format/mkdir/overlay` is an overlay with two
    /// transformations.
    pub fn new(mounts: Vec<Mount>, temporary: bool) -> Result<Self, MountError> {
        if mounts.len() > MOUNTS_MAX {
            let count = mounts.len();
            let words = format!("too many mounts ({count}): maximum {MOUNTS_MAX}");
            return Err(MountError::Invalid(words));
        }
        let mut first_system = None;
        let mut steps = Vec::with_capacity(mounts.len());
        for (index, mut mount) in mounts.into_iter().enumerate() {
            let mut transforms = Vec::new();
            while let Some((name, rest)) = mount.kind.split_once('/') {
                let Some(transform) = Transform::named(name) else {
                    log::warn!(kind = mount.kind.as_str(); "unknown transformation of a mount");
                    break;
                };
                transforms.push(transform);
                mount.kind = rest.to_owned();
                first_system = Some(index);
            }
            if temporary || HANDLED.contains(&mount.kind.as_str()) {
                first_system = Some(index + 1);
            }
            steps.push(Step { transforms, mount });
        }
        match first_system {
            Some(first_system) => Ok(Self { steps, first_system, temporary }),
            None => Err(MountError::NothingToDo),
        }
    }

    /// Makes the mounts below `directory`. Answers those made and those left.
    /// After an error those that were made are still there.
    pub fn carry_out(
        self,
        directory: &Path,
        roots: &Roots,
    ) -> Result<(Vec<ActiveMount>, Vec<Mount>), MountError> {
        let mut active: Vec<ActiveMount> = Vec::with_capacity(self.first_system);
        let mut system = Vec::new();
        for (index, step) in self.steps.into_iter().enumerate() {
            let mut mount = step.mount;
            if index <= self.first_system {
                for transform in step.transforms {
                    mount = transform.apply(mount, &active, roots)?;
                }
            }
            if index >= self.first_system {
                system.push(mount);
                continue;
            }
            // Numbered from the last to be unmounted, as containerd does.
            let mount_point = directory.join((self.first_system - index).to_string());
            active.push(make(mount, &mount_point)?);
        }
        if self.temporary
            && let Some(last) = active.last()
        {
            system.push(Mount {
                kind: "bind".to_owned(),
                source: last.mount_point.display().to_string(),
                target: String::new(),
                options: vec!["rbind".to_owned()],
            });
        }
        Ok((active, system))
    }
}

fn make(mount: Mount, mount_point: &Path) -> Result<ActiveMount, MountError> {
    DirBuilder::new()
        .mode(0o700)
        .create(mount_point)
        .map_err(MountError::io("make directory", mount_point))?;
    let mut actual = mount.clone();
    // An image in a file goes through a loop device; one on a device does not.
    let in_file = || Path::new(&mount.source).is_file();
    if mount.kind == "erofs" && in_file() && !mount.options.iter().any(|option| option == "loop") {
        actual.options.push("loop".to_owned());
    }
    davit_sys::mount::mount(&actual, mount_point).map_err(|source| MountError::Mount {
        kind: mount.kind.clone(),
        target: mount_point.to_owned(),
        source,
    })?;
    Ok(ActiveMount { mount, mount_point: mount_point.to_owned(), mounted_at: SystemTime::now() })
}
