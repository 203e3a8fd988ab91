//! What can be done to a mount before it is made: filling in the results of
//! earlier mounts, making directories, making a filesystem in a file.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use davit_types::Mount;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ActiveMount;
use super::beneath::Beneath;
use super::error::MountError;
use crate::template::{Argument, TemplateError, render};

const MKDIR: &str = "X-containerd.mkdir.";
const MKFS: &str = "X-containerd.mkfs.";

/// How long making a filesystem may take.
pub const MKFS_LIMIT: Duration = Duration::from_secs(120);

/// The directories that transformations may work in.
#[derive(Clone, Debug)]
pub struct Roots(Vec<PathBuf>);

impl Roots {
    pub fn new(roots: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(roots.into_iter().collect())
    }

    /// The deepest root that `path` is below, and where below it.
    fn of(&self, path: &Path, what: &str) -> Result<Beneath, MountError> {
        let inside = self.0.iter().filter_map(|root| Some((root, path.strip_prefix(root).ok()?)));
        match inside.max_by_key(|(root, _)| root.as_os_str().len()) {
            Some((root, rest)) => Beneath::open(root, rest),
            None => {
                let words = format!("no root {:?} configured for {what}", path.display());
                Err(MountError::Unsupported(words))
            }
        }
    }
}

/// One transformation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Replaces `{{mount 0}}` and the like by what earlier mounts gave.
    Format,
    /// Makes the directories that options name.
    Mkdir,
    /// Makes the source, a file with an empty filesystem, if it is missing.
    Mkfs,
}

impl Transform {
    /// The transformation that a mount's type starts with.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "format" => Some(Self::Format),
            "mkdir" => Some(Self::Mkdir),
            "mkfs" => Some(Self::Mkfs),
            _ => None,
        }
    }

    /// The mount as it is to be made, after what it needs was made.
    pub fn apply(
        self,
        mount: Mount,
        active: &[ActiveMount],
        roots: &Roots,
    ) -> Result<Mount, MountError> {
        match self {
            Self::Format => format(mount, active),
            Self::Mkdir => mkdir(mount, roots),
            Self::Mkfs => mkfs(mount, roots),
        }
    }
}

fn format(mut mount: Mount, active: &[ActiveMount]) -> Result<Mount, MountError> {
    let call = |name: &str, arguments: &[Argument]| value(name, arguments, active);
    for text in [&mut mount.source, &mut mount.target].into_iter().chain(&mut mount.options) {
        *text = render(text, call)?;
    }
    Ok(mount)
}

fn value(
    name: &str,
    arguments: &[Argument],
    active: &[ActiveMount],
) -> Result<String, TemplateError> {
    let point = |active: &ActiveMount| active.mount_point.display().to_string();
    let one = |index: i64| {
        let found = usize::try_from(index).ok().and_then(|index| active.get(index));
        found.ok_or_else(|| {
            let count = active.len();
            let words = format!("index out of bounds: {index}, has {count} active mounts");
            TemplateError::Failed(words)
        })
    };
    match (name, arguments) {
        ("source", [Argument::Number(index)]) => Ok(one(*index)?.mount.source.clone()),
        ("target", [Argument::Number(index)]) => Ok(one(*index)?.mount.target.clone()),
        ("mount", [Argument::Number(index)]) => Ok(point(one(*index)?)),
        // Either direction, for layers are named from the top.
        ("overlay", [Argument::Number(start), Argument::Number(end)]) => {
            let (low, high) = (*start.min(end), *start.max(end));
            if low < 0 || high >= active.len() as i64 {
                let count = active.len();
                let words = format!("invalid range: {start}-{end}, has {count} active mounts");
                return Err(TemplateError::Failed(words));
            }
            let mut points: Vec<String> =
                active[low as usize..=high as usize].iter().map(point).collect();
            if start > end {
                points.reverse();
            }
            Ok(points.join(":"))
        }
        _ => Err(TemplateError::Unknown(name.to_owned())),
    }
}

/// `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`
fn mkdir(mut mount: Mount, roots: &Roots) -> Result<Mount, MountError> {
    let (ours, rest) = split_options(mount.options, MKDIR);
    mount.options = rest;
    for option in ours {
        let invalid = || MountError::Invalid(format!("invalid mkdir option {MKDIR}{option:?}"));
        let value = option.strip_prefix("path=").ok_or_else(invalid)?;
        let parts: Vec<&str> = value.splitn(4, ':').collect();
        let (path, mode, owner) = match parts[..] {
            [path] => (path, None, None),
            [path, mode] => (path, Some(mode), None),
            [path, mode, uid, gid] => (path, Some(mode), Some((uid, gid))),
            _ => return Err(invalid()),
        };
        let owner = owner
            .map(|(uid, gid)| Ok::<_, MountError>((number("uid", uid)?, number("gid", gid)?)))
            .transpose()?;
        let mode = match mode {
            None => 0o700,
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o777 => mode,
                _ => return Err(MountError::Malformed(format!("invalid mode {text}"))),
            },
        };
        roots.of(Path::new(path), "mkdir")?.make_directory(mode, owner)?;
    }
    Ok(mount)
}

fn number(what: &str, text: &str) -> Result<u32, MountError> {
    text.parse().map_err(|_| MountError::Invalid(format!("invalid {what} {text:?}")))
}

/// `X-containerd.mkfs.size=SIZE`, `….fs=ext4`, `….uuid=UUID`
fn mkfs(mut mount: Mount, roots: &Roots) -> Result<Mount, MountError> {
    let file = roots.of(Path::new(&mount.source), "mkfs")?;
    let (ours, rest) = split_options(mount.options, MKFS);
    mount.options = rest;
    let (mut size, mut filesystem, mut uuid) = (0, "ext4".to_owned(), None);
    for option in ours {
        match option.split_once('=') {
            Some(("size", text)) => size = bytes(text)?,
            Some(("fs", name)) => filesystem = name.to_owned(),
            Some(("uuid", text)) => uuid = Some(text.to_owned()),
            _ => {
                let words = format!("unknown mount option {MKFS}{option}");
                return Err(MountError::Invalid(words));
            }
        }
    }
    if size == 0 {
        return Err(MountError::Invalid("mkfs requires mkfs.size option".to_owned()));
    }
    let mut command = match filesystem.as_str() {
        "ext2" | "ext3" | "ext4" => Command::new(format!("mkfs.{filesystem}")),
        "xfs" => Command::new("mkfs.xfs"),
        _ => return Err(MountError::Invalid(format!("unsupported filesystem {filesystem:?}"))),
    };
    command.arg("-q");
    match uuid {
        Some(uuid) if filesystem == "xfs" => command.args(["-m", &format!("uuid={uuid}")]),
        Some(uuid) => command.args(["-U", &uuid]),
        None => &mut command,
    };
    if file.make_file(size)? {
        let path = PathBuf::from(&mount.source);
        if let Err(reason) = run(command.arg(&path)) {
            // An empty file would be taken for a filesystem the next time.
            file.remove_file()?;
            return Err(MountError::Format { path, reason });
        }
    }
    Ok(mount)
}

/// Runs a program within [`MKFS_LIMIT`]; what it said when it failed.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("{name} failed: {error}");
    let mut child = command
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let ended = davit_sys::process::PidFd::open(child.id())
        .map_err(|error| error.to_string())
        .and_then(|pidfd| {
            let limit = PollTimeout::try_from(MKFS_LIMIT).map_err(|error| error.to_string())?;
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, limit) {
                Ok(0) => Err(format!("not done after {} s", MKFS_LIMIT.as_secs())),
                Ok(_) => Ok(()),
                Err(errno) => Err(errno.to_string()),
            }
        });
    if let Err(reason) = ended {
        // It may have ended by itself; waiting for it below is what counts.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{name} failed: {reason}"));
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} failed: {}: {}", words.trim(), output.status))
}

/// Sizes as containerd reads them: `10485760`, `10m`, `1.5GiB`.
fn bytes(text: &str) -> Result<u64, MountError> {
    let malformed = || MountError::Malformed(format!("bad option size: invalid size: '{text}'"));
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let number: f64 = text[..digits].parse().map_err(|_| malformed())?;
    let suffix = text[digits..].trim_start_matches(' ').to_ascii_lowercase();
    let power = match suffix.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(malformed()),
    };
    let size = number * 1024_f64.powi(power);
    // Beyond this no filesystem can keep a file.
    if size < i64::MAX as f64 { Ok(size as u64) } else { Err(malformed()) }
}

/// Options with `prefix`, without it, and the others.
fn split_options(options: Vec<String>, prefix: &str) -> (Vec<String>, Vec<String>) {
    let mut ours = Vec::new();
    let mut rest = Vec::new();
    for option in options {
        match option.strip_prefix(prefix) {
            Some(option) => ours.push(option.to_owned()),
            None => rest.push(option),
        }
    }
    (ours, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_containerd_does() {
        for (text, size) in [
            ("512", 512),
            ("10m", 10 << 20),
            ("10MB", 10 << 20),
            ("1.5GiB", 3 << 29),
            ("1 k", 1024),
        ] {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for text in ["", "m", "1x", "-1", "1.2.3", "9999999p"] {
            assert!(bytes(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn earlier_mounts_are_filled_in() {
        let active: Vec<ActiveMount> = ["/a", "/b", "/c"]
            .map(|path| ActiveMount {
                mount: Mount { source: format!("{path}.img"), ..Mount::default() },
                mount_point: path.into(),
                mounted_at: std::time::UNIX_EPOCH,
            })
            .into();
        let filled = |text: &str| {
            let mount = Mount { options: vec![text.to_owned()], ..Mount::default() };
            format(mount, &active).map(|mount| mount.options[0].clone()).map_err(|e| e.to_string())
        };
        assert_eq!(filled("lowerdir={{ overlay 0 2 }}").unwrap(), "lowerdir=/a:/b:/c");
        assert_eq!(filled("lowerdir={{ overlay 2 1 }}:/x").unwrap(), "lowerdir=/c:/b:/x");
        assert_eq!(filled("{{ mount 1 }}/{{ source 0 }}").unwrap(), "/b//a.img");
        let error = filled("{{ mount 3 }}").unwrap_err();
        assert_eq!(error, "template: index out of bounds: 3, has 3 active mounts");
        assert!(filled("{{ overlay 0 3 }}").is_err());
        assert!(filled("{{ mount \"x\" }}").is_err());
    }
}
