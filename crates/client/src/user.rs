//! Who a process runs as: `name`, `uid`, `name:group`, `uid:gid`, looked up in
//! the image's own `/etc/passwd` and `/etc/group`.
//!
//! Numbers outside 0 to 2³¹-1 are refused, never wrapped; the files are read
//! inside the image's root, whatever links there are, up to a limit.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use davit_protocols::grpc::containerd::types::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::Error;

/// The most that is read of either file, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// The numbers of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// The directories of an image's root, uppermost first, as its mounts tell.
pub fn layers(mounts: &[Mount]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for mount in mounts {
        match mount.r#type.as_str() {
            "bind" | "rbind" => found.push(PathBuf::from(&mount.source)),
            _ => {
                let of = |name: &str| mount.options.iter().find_map(|o| o.strip_prefix(name));
                found.extend(of("upperdir=").map(PathBuf::from));
                found.extend(
                    of("lowerdir=").into_iter().flat_map(|dirs| dirs.split(':')).map(PathBuf::from),
                );
            }
        }
    }
    found
}

/// Reads a file of the image as its uppermost layer has it; empty where there
/// is none. One that is too large is refused: where it is cut, a number would
/// become another.
fn read(layers: &[PathBuf], path: &str) -> Result<String, Error> {
    let bytes = layers.iter().find_map(|layer| read_in(layer, path)).unwrap_or_default();
    if bytes.len() as u64 > FILE_LIMIT {
        let reason = format!("more than the {FILE_LIMIT} bytes that are read of it");
        return Err(Error::invalid(format!("the image's /{path}"), reason));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_in(root: &Path, path: &str) -> Option<Vec<u8>> {
    let root =
        open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, path, how).ok()?);
    let regular = file.metadata().ok()?.is_file();
    let mut text = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut text).ok()?;
    // A whiteout is a device: the file is gone from here upwards.
    Some(if regular { text } else { Vec::new() })
}

/// Finds who `user` is in the image whose root is made of `layers`.
///
/// # Errors
/// [`Error::Invalid`] for a name that the image does not know, for numbers that
/// are none, and for files that are too large.
pub fn find(user: &str, layers: &[PathBuf]) -> Result<User, Error> {
    if user.is_empty() {
        return Ok(User::default());
    }
    let (passwd, group) = (read(layers, "etc/passwd")?, read(layers, "etc/group")?);
    parse(user, &passwd, &group)
}

fn parse(user: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let (name, wanted_group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let number = number(name)?;
    let entry = fields(passwd).find(|entry| match number {
        Some(_) => entry.get(2) == Some(&name),
        None => entry[0] == name,
    });
    let of_entry = |field: usize| {
        let text = entry.as_ref()?.get(field).copied()?;
        self::number(text).ok().flatten()
    };
    let uid = number.or_else(|| of_entry(2)).ok_or_else(|| {
        Error::invalid(format!("user {name:?}"), "not in the image's /etc/passwd")
    })?;
    if let Some(wanted) = wanted_group {
        return Ok(User { uid, gid: find_group(wanted, group)?, groups: Vec::new() });
    }
    let login = entry.as_ref().map_or(name, |entry| entry[0]);
    let member = |line: &Vec<&str>| line.get(3).is_some_and(|m| m.split(',').any(|m| m == login));
    let groups =
        fields(group).filter(member).filter_map(|line| self::number(line[2]).ok()?).collect();
    Ok(User { uid, gid: of_entry(3).unwrap_or(0), groups })
}

fn find_group(name: &str, group: &str) -> Result<u32, Error> {
    if let Some(number) = number(name)? {
        return Ok(number);
    }
    let line = fields(group).find(|line| line[0] == name && line.len() > 2);
    line.and_then(|line| number(line[2]).ok()?)
        .ok_or_else(|| Error::invalid(format!("group {name:?}"), "not in the image's /etc/group"))
}

fn fields(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().filter(|line| !line.is_empty()).map(|line| line.split(':').collect())
}

/// A number, `None` for a name, an error for a number that no user can have.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if i32::try_from(number).is_ok() => Ok(Some(number)),
        _ => Err(Error::invalid(format!("id {text}"), "outside of 0 to 2147483647")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:\nbad:x:99999999999:1::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:other,web\n";

    #[test]
    fn users_and_groups_are_found() {
        let user = |uid, gid, groups: &[u32]| User { uid, gid, groups: groups.to_vec() };
        for (text, expected) in [
            ("web", user(33, 34, &[50])),
            ("33", user(33, 34, &[50])),
            ("web:extra", user(33, 50, &[])),
            ("1000", user(1000, 0, &[])),
            ("1000:1001", user(1000, 1001, &[])),
        ] {
            assert_eq!(parse(text, PASSWD, GROUP).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_user_is_refused() {
        for text in
            ["nobody", "web:none", "2147483648", "99999999999999999999", "bad", ":", "0:4294967296"]
        {
            assert!(parse(text, PASSWD, GROUP).is_err(), "{text}");
        }
    }

    #[test]
    fn links_stay_inside_the_image() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.path().join("etc/passwd")).unwrap();
        let read = || read(&[root.path().to_owned()], "etc/passwd").unwrap();
        assert_eq!(read(), "");
        std::fs::write(root.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(read(), "inside");
    }

    #[test]
    fn files_that_are_too_large_are_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let line = "web:x:33:34::/:\n";
        let write = |size: usize| {
            let text = line.repeat(size / line.len() + 1);
            std::fs::write(root.path().join("etc/passwd"), &text[..size]).unwrap();
        };
        let layers = [root.path().to_owned()];
        write(FILE_LIMIT as usize);
        assert_eq!(find("web", &layers).unwrap().uid, 33);
        write(FILE_LIMIT as usize + 1);
        let error = find("web", &layers).unwrap_err().to_string();
        assert!(error.starts_with("the image's /etc/passwd: more than"), "{error}");
    }
}
