//! `mountinfo`, as proc(5) describes it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// One mount of this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Unique among the mounts that exist.
    pub id: u64,
    /// What part of the filesystem is mounted; for control groups, a
    /// process's namespace's root.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// The mount's own options.
    pub options: String,
    /// The filesystem's type.
    pub kind: String,
    /// What is mounted, as the filesystem names it.
    pub source: String,
    /// The filesystem's options.
    pub super_options: String,
}

/// Reads all mounts that the calling thread sees, in the order in which they were made.
///
/// # Errors
/// When `/proc` is not there or a line is malformed.
pub fn read() -> Result<Vec<MountPoint>> {
    // A thread can have a mount namespace of its own.
    let path = Path::new("/proc/thread-self/mountinfo");
    // The file has no size to go by; small reads would each make the kernel
    // go through the table again.
    let mut bytes = Vec::with_capacity(16 << 10);
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|e| Error::path("read", path, e))?;
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse(line).ok_or_else(|| Error::Malformed {
                path: path.to_owned(),
                reason: String::from_utf8_lossy(line).into_owned(),
            })
        })
        .collect()
}

/// Parses one line. `None` when it is malformed.
pub fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (_parent, _device) = (fields.next()?, fields.next()?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = text(fields.next()?);
    // Any number of optional fields, up to a lone dash.
    fields.find(|field| *field == b"-")?;
    let kind = text(fields.next()?);
    let source = text(fields.next()?);
    let super_options = text(fields.next().unwrap_or_default());
    Some(MountPoint { id, root, mount_point, options, kind, source, super_options })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |byte: u8| byte.checked_sub(b'0').filter(|digit| *digit < 8);
        let escaped = match tail {
            [a, b, c, ..] if *first == b'\\' => octal(*a).zip(octal(*b)).zip(octal(*c)),
            _ => None,
        };
        match escaped {
            Some(((a, b), c)) => {
                bytes.push(a.wrapping_mul(64) + b * 8 + c);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.root), (36, "/mnt1".into()));
        assert_eq!(mount.mount_point, Path::new("/mnt 2"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
        assert_eq!(parse(b"36 35 98:0 /mnt1 /mnt2 rw,noatime ext3"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(unescape(br"a\134\04\"), br"a\\04\");
        assert!(read().unwrap().iter().any(|mount| mount.mount_point == Path::new("/")));
    }
}
