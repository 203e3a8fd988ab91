//! Mount options, from fstab's words to the kernel's flags.

use nix::mount::MsFlags;

use crate::{Error, Result};

/// Options, taken apart (containerd's `parseMountOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What became flags, propagation included.
    pub flags: MsFlags,
    /// What is for the filesystem, in order.
    pub data: Vec<String>,
    /// `loop`: the source is a file to be attached to a loop device.
    pub use_loop: bool,
    /// `direct-io`, with `loop`: past the page cache.
    pub direct_io: bool,
    /// `uidmap=` and `gidmap=`, both.
    pub id_maps: Option<IdMaps>,
}

/// How owners are to be shown: `INSIDE:OUTSIDE:COUNT`, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// For users.
    pub users: String,
    /// For groups.
    pub groups: String,
}

/// Options that are containerd's among its own parts and mean nothing to a
/// mount.
pub(super) fn is_private(option: &str) -> bool {
    option.starts_with("X-containerd.")
}

impl Parsed {
    /// Takes options apart.
    ///
    /// # Errors
    /// [`Error::MountOption`] for id maps that are malformed or come alone.
    pub fn new(options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            data: Vec::new(),
            use_loop: false,
            direct_io: false,
            id_maps: None,
        };
        let (mut users, mut groups) = (None, None);
        for option in options.iter().filter(|o| !is_private(o)) {
            if let Some((set, flag)) = flag(option) {
                parsed.flags.set(flag, set);
            } else if option == "loop" {
                parsed.use_loop = true;
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                users = Some(id_map(option, map)?);
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                groups = Some(id_map(option, map)?);
            } else {
                parsed.data.push(option.clone());
            }
        }
        if parsed.use_loop {
            let before = parsed.data.len();
            parsed.data.retain(|option| option != "direct-io");
            parsed.direct_io = parsed.data.len() < before;
        }
        parsed.id_maps = match (users, groups) {
            (Some(users), Some(groups)) => Some(IdMaps { users, groups }),
            (None, None) => None,
            (Some(map), None) | (None, Some(map)) => {
                return Err(Error::MountOption {
                    option: map,
                    reason: "uidmap and gidmap go together",
                });
            }
        };
        Ok(parsed)
    }
}

/// A word that is a flag, and whether it sets or clears it.
fn flag(option: &str) -> Option<(bool, MsFlags)> {
    let flag = match option {
        "defaults" => (true, MsFlags::empty()),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "atime" => (false, MsFlags::MS_NOATIME),
        "bind" => (true, MsFlags::MS_BIND),
        "dev" => (false, MsFlags::MS_NODEV),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "nodev" => (true, MsFlags::MS_NODEV),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "private" => (true, MsFlags::MS_PRIVATE),
        "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rprivate" => (true, MsFlags::MS_PRIVATE | MsFlags::MS_REC),
        "rshared" => (true, MsFlags::MS_SHARED | MsFlags::MS_REC),
        "rslave" => (true, MsFlags::MS_SLAVE | MsFlags::MS_REC),
        "runbindable" => (true, MsFlags::MS_UNBINDABLE | MsFlags::MS_REC),
        "rw" => (false, MsFlags::MS_RDONLY),
        "shared" => (true, MsFlags::MS_SHARED),
        "slave" => (true, MsFlags::MS_SLAVE),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "suid" => (false, MsFlags::MS_NOSUID),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "unbindable" => (true, MsFlags::MS_UNBINDABLE),
        _ => return None,
    };
    Some(flag)
}

/// Checks a map and gives it the kernel's form: one line a range.
fn id_map(option: &str, map: &str) -> Result<String> {
    let bad = |reason| Error::MountOption { option: option.to_owned(), reason };
    let mut lines = String::new();
    for range in map.split(',') {
        let numbers: Vec<u32> = range
            .split(':')
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| bad("ranges are INSIDE:OUTSIDE:COUNT"))?;
        match numbers[..] {
            [_, _, 0] => return Err(bad("a range of no ids")),
            [inside, outside, count] => {
                lines.push_str(&format!("{inside} {outside} {count}\n"));
            }
            _ => return Err(bad("ranges are INSIDE:OUTSIDE:COUNT")),
        }
    }
    Ok(lines)
}
