//! What a snapshot's mounts mean for writing to it or reading from it:
//! mostly, that nothing need be mounted.

use std::path::{Path, PathBuf};

use davit_sys::mount::mount_all;
use davit_types::Mount;

use crate::{Error, Whiteouts};

/// A tree to write a layer to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub root: PathBuf,
    /// Nearest first.
    pub lower: Vec<PathBuf>,
    pub whiteouts: Whiteouts,
}

fn option<'a>(mount: &'a Mount, name: &str) -> Option<&'a str> {
    mount.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
}

fn has(mount: &Mount, name: &str) -> bool {
    mount.options.iter().any(|option| option == name)
}

/// Where a layer can be written to directly; `None` when the mounts have to
/// be made (containerd, `core/diff/apply/apply_linux.go`).
pub(super) fn direct(mounts: &[Mount]) -> Option<Target> {
    let [mount] = mounts else { return None };
    let mapped = option(mount, "uidmap").is_some() || option(mount, "gidmap").is_some();
    if !mount.target.is_empty() || has(mount, "ro") {
        return None;
    }
    match mount.kind.as_str() {
        "overlay" => {
            let upper = option(mount, "upperdir")?;
            let lower = option(mount, "lowerdir").unwrap_or_default();
            let whiteouts = match has(mount, "userxattr") {
                true => Whiteouts::OverlayUser,
                false => Whiteouts::Overlay,
            };
            let lower = lower.split(':').filter(|path| !path.is_empty()).map(PathBuf::from);
            Some(Target { root: upper.into(), lower: lower.collect(), whiteouts })
        }
        "bind" if !mapped => Some(Target {
            root: mount.source.clone().into(),
            lower: Vec::new(),
            whiteouts: Whiteouts::Remove,
        }),
        _ => None,
    }
}

/// Makes the mounts below `scratch`, in the directory `name`.
pub(super) fn make(mounts: &[Mount], scratch: &Path, name: &str) -> Result<PathBuf, Error> {
    let target = scratch.join(name);
    std::fs::create_dir(&target).map_err(Error::io("mkdir", &target))?;
    mount_all(mounts, &target).map_err(Error::Mount)?;
    Ok(target)
}

/// The same mounts, for looking only.
pub(super) fn read_only(mounts: Vec<Mount>) -> Vec<Mount> {
    let last = mounts.len().saturating_sub(1);
    let protect = |(index, mut mount): (usize, Mount)| {
        if mount.kind == "overlay" {
            // Without its upper directory as such, an overlay can be mounted
            // beside one that is in use.
            mount = without_upper(mount);
        }
        if index == last && !has(&mount, "ro") {
            mount.options.retain(|option| option != "rw");
            mount.options.push("ro".to_owned());
        }
        mount
    };
    mounts.into_iter().enumerate().map(protect).collect()
}

/// The one layer that `upper` has on top of all those of `lower`, where both
/// are overlays, or the plain directory at the bottom of one.
///
/// With overlayfs' index, a file can change in other places than that layer:
/// by a hard link of another name.
pub(super) fn top_layer(lower: &[Mount], upper: &[Mount]) -> Option<PathBuf> {
    let ([lower], [upper]) = (lower, upper) else { return None };
    if upper.kind != "overlay" || !has(upper, "index=off") || has(upper, "metacopy=on") {
        return None;
    }
    let mut layers = layers(upper)?;
    let top = layers.remove(0);
    (self::layers(lower)? == layers && !layers.is_empty()).then(|| top.into())
}

/// The directories that a mount is of, the uppermost first.
fn layers(mount: &Mount) -> Option<Vec<&str>> {
    match mount.kind.as_str() {
        "overlay" => {
            let lower = option(mount, "lowerdir")?;
            // What has been escaped, and layers with data alone, are not for us.
            if lower.contains('\\') || lower.contains("::") {
                return None;
            }
            Some(option(mount, "upperdir").into_iter().chain(lower.split(':')).collect())
        }
        "bind" => Some(vec![&mount.source]),
        _ => None,
    }
}

/// An overlay's upper directory as one more lower one (containerd,
/// `core/mount/temp.go`).
fn without_upper(mut mount: Mount) -> Mount {
    let (Some(upper), Some(lower)) = (option(&mount, "upperdir"), option(&mount, "lowerdir"))
    else {
        return mount;
    };
    let lower = format!("lowerdir={upper}:{lower}");
    let gone = ["upperdir=", "workdir=", "lowerdir="];
    mount.options.retain(|option| !gone.iter().any(|name| option.starts_with(name)));
    mount.options.push(lower);
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|&option| option.into()).collect(),
        }
    }

    #[test]
    fn an_overlay_is_written_to_its_upper_directory() {
        let options = ["workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "index=off"];
        let target = direct(&[mount("overlay", "overlay", &options)]).unwrap();
        assert_eq!(target.root, Path::new("/u"));
        assert_eq!(target.lower, [Path::new("/b"), Path::new("/a")]);
        assert_eq!(target.whiteouts, Whiteouts::Overlay);
        let user = mount("overlay", "overlay", &["upperdir=/u", "lowerdir=/a", "userxattr"]);
        assert_eq!(direct(&[user]).unwrap().whiteouts, Whiteouts::OverlayUser);
    }

    #[test]
    fn a_bind_mount_is_written_to_its_source() {
        let target = direct(&[mount("bind", "/s", &["rw", "rbind"])]).unwrap();
        assert_eq!((target.root.as_path(), target.whiteouts), ("/s".as_ref(), Whiteouts::Remove));
    }

    #[test]
    fn all_else_is_mounted() {
        for mounts in [
            vec![],
            vec![mount("overlay", "overlay", &["lowerdir=/b:/a"])],
            vec![mount("bind", "/s", &["ro", "rbind"])],
            vec![mount("bind", "/s", &["rw", "rbind", "uidmap=0:1:2"])],
            vec![mount("erofs", "/s", &[])],
            vec![mount("bind", "/s", &["rbind"]), mount("bind", "/t", &["rbind"])],
        ] {
            assert_eq!(direct(&mounts), None, "{mounts:?}");
        }
    }

    #[test]
    fn the_layer_between_two_snapshots_is_found() {
        let overlay = |options: &[&str]| vec![mount("overlay", "overlay", options)];
        let lower = overlay(&["lowerdir=/b:/a", "index=off"]);
        let bind = vec![mount("bind", "/a", &["ro", "rbind"])];
        let found = |lower: &[Mount], options: &[&str]| {
            top_layer(lower, &overlay(options)).map(|path| path.display().to_string())
        };
        let top = Some("/u".to_owned());
        let active = ["workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "index=off"];
        assert_eq!(found(&lower, &active), top);
        assert_eq!(found(&lower, &["lowerdir=/u:/b:/a", "index=off"]), top);
        assert_eq!(found(&bind, &["upperdir=/u", "lowerdir=/a", "index=off"]), top);
        for other in [
            &["upperdir=/u", "lowerdir=/b:/a"][..],
            &["upperdir=/u", "lowerdir=/b:/a", "index=off", "metacopy=on"],
            &["upperdir=/u", "lowerdir=/a:/b", "index=off"],
            &["upperdir=/u", "lowerdir=/c:/b:/a", "index=off"],
            &["upperdir=/u", "lowerdir=/b", "index=off"],
            &["lowerdir=/b:/a", "index=off"],
        ] {
            assert_eq!(found(&lower, other), None, "{other:?}");
        }
        assert_eq!(found(&[], &active), None);
        assert_eq!(top_layer(&bind, &bind), None);
    }

    #[test]
    fn what_is_compared_is_not_written_to() {
        let overlay = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/a"]);
        assert_eq!(read_only(vec![overlay])[0].options, ["lowerdir=/u:/a", "ro"]);
        let bind = mount("bind", "/s", &["rw", "rbind"]);
        assert_eq!(read_only(vec![bind])[0].options, ["rbind", "ro"]);
        assert!(read_only(Vec::new()).is_empty());
    }
}
