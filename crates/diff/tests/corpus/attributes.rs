//! Owners, modes, devices and extended attributes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::Expect::{Refused, Tree};
use crate::common::raw::{archive, entry, octal, pax};
use crate::common::{Archive, header};
use crate::{Arena, Case, Way, case, run};
use davit_diff::Limits;
use davit_diff::tar::{EntryKind, Header};

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const WAYS: [Way; 4] = [Way::Plain, Way::Upper, Way::Worker, Way::WorkerOverlay];

fn attribute(key: &'static str, value: &'static [u8], kind: EntryKind) -> Case {
    let make = move |_: &std::path::Path| {
        let xattrs = vec![(key.to_owned(), value.to_vec())];
        let link_name = if kind == EntryKind::Symlink { b"to".to_vec() } else { Vec::new() };
        Archive::new().add(Header { xattrs, link_name, ..header("x", kind) }, b"").bytes()
    };
    case(key, make, Refused(&["entry \"x\""]))
}

#[test]
fn attributes_that_overlays_look_at() {
    for kind in [EntryKind::Directory, EntryKind::File, EntryKind::Symlink] {
        for key in [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.metacopy",
            "trusted.overlay.origin",
            "trusted.overlay.overlay.opaque",
            "user.overlay.opaque",
            "user.overlay.redirect",
        ] {
            run(&[attribute(key, b"y", kind)]);
        }
    }
}

#[test]
fn attributes_that_cannot_be() {
    run(&[
        attribute("system.posix_acl_access", b"\x02\0\0\0rubbish", EntryKind::File),
        attribute("security.capability", b"rubbish", EntryKind::File),
        attribute("user.", b"x", EntryKind::File),
        case(
            "larger than any",
            |_| {
                let xattrs = vec![("user.x".to_owned(), vec![b'x'; (64 << 10) + 1])];
                Archive::new().add(Header { xattrs, ..header("x", EntryKind::File) }, b"").bytes()
            },
            Refused(&["entry \"x\"", "setxattr"]),
        ),
        // User attributes are for files and directories alone, and left out
        // elsewhere, as containerd does.
        Case { expect: Tree(&["x -> to"]), ..attribute("user.x", b"y", EntryKind::Symlink) },
        Case { expect: Tree(&["x?"]), ..attribute("user.x", b"y", EntryKind::Fifo) },
        // No such family.
        Case { expect: Tree(&["x="]), ..attribute("nonsense.x", b"y", EntryKind::File) },
    ]);
}

#[test]
fn what_makes_programs_powerful_is_kept() {
    for way in WAYS {
        let arena = Arena::new();
        let su = Header { mode: 0o6755, uid: 1, gid: 2, ..header("su", EntryKind::File) };
        let ping = Header {
            mode: 0o755,
            uid: 3,
            xattrs: vec![
                ("security.capability".into(), CAPABILITY.to_vec()),
                ("user.mark".into(), b"1".to_vec()),
            ],
            ..header("ping", EntryKind::File)
        };
        let sticky = Header { mode: 0o1777, gid: 5, ..header("tmp", EntryKind::Directory) };
        let shared = Header { mode: 0o2775, gid: 6, ..header("shared", EntryKind::Directory) };
        let inside = Header { mode: 0o640, gid: 7, ..header("shared/x", EntryKind::File) };
        let bytes = Archive::new()
            .add(su, b"x")
            .add(ping, b"x")
            .add(sticky, b"")
            .add(shared, b"")
            .add(inside, b"x")
            .bytes();
        arena.apply(&bytes, way, Limits::default()).unwrap();
        let found = |name: &str| {
            let meta = fs::symlink_metadata(arena.tree().join(name)).unwrap();
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        };
        assert_eq!(found("su"), (0o6755, 1, 2), "{way:?}");
        assert_eq!(found("ping"), (0o755, 3, 0), "{way:?}");
        assert_eq!(found("tmp"), (0o1777, 0, 5), "{way:?}");
        assert_eq!(found("shared"), (0o2775, 0, 6), "{way:?}");
        assert_eq!(found("shared/x"), (0o640, 0, 7), "{way:?}");
        let mut value = [0; 64];
        let ping = arena.tree().join("ping");
        let length = rustix::fs::getxattr(&ping, "security.capability", &mut value[..]).unwrap();
        assert_eq!(&value[..length], CAPABILITY, "{way:?}");
        assert_eq!(rustix::fs::getxattr(&ping, "user.mark", &mut value[..]), Ok(1), "{way:?}");
    }
}

#[test]
fn access_control_lists_are_kept_and_do_not_change_the_mode() {
    // Version 2: owner rw, user 1000 rwx, group r, mask rwx, others none.
    let mut list = vec![2, 0, 0, 0];
    for (tag, bits, id) in [
        (0x01_u16, 6_u16, u32::MAX),
        (0x02, 7, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(bits.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let entry = Header {
        mode: 0o670,
        xattrs: vec![("system.posix_acl_access".into(), list)],
        ..header("x", EntryKind::File)
    };
    for way in WAYS {
        let arena = Arena::new();
        let bytes = Archive::new().add(entry.clone(), b"x").bytes();
        arena.apply(&bytes, way, Limits::default()).unwrap();
        let path = arena.tree().join("x");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o670, "{way:?}");
        let mut value = [0; 64];
        rustix::fs::getxattr(&path, "system.posix_acl_access", &mut value[..]).unwrap();
    }
}

#[test]
fn devices_are_what_they_say_and_nothing_is_opened() {
    for way in WAYS {
        let arena = Arena::new();
        let device = |name, kind, device| Header { device, mode: 0o600, ..header(name, kind) };
        let bytes = Archive::new()
            .add(device("null", EntryKind::CharDevice, (1, 3)), b"")
            .add(device("loop", EntryKind::BlockDevice, (7, 300)), b"")
            .add(device("pipe", EntryKind::Fifo, (0, 0)), b"")
            // Written in place of the device and the pipe, not to them.
            .file("null", "1")
            .file("pipe", "2")
            .bytes();
        arena.apply(&bytes, way, Limits::default()).unwrap();
        let meta = |name: &str| fs::symlink_metadata(arena.tree().join(name)).unwrap();
        assert!(meta("null").is_file() && meta("pipe").is_file(), "{way:?}");
        let block = meta("loop");
        assert!(block.file_type().is_block_device(), "{way:?}");
        assert_eq!(block.rdev(), rustix::fs::makedev(7, 300), "{way:?}");
    }
    let number = |from: usize, value: [u8; 8]| {
        move |_: &std::path::Path| {
            archive(&[entry("dev", b'3', b"", |block| {
                block[from..from + 8].copy_from_slice(&value);
            })])
        }
    };
    run(&[
        case("major below zero", number(329, [0xff; 8]), Refused(&["entry \"dev\"", "mknod"])),
        case(
            "minor of 33 bits",
            number(337, *b"\x80\0\0\x01\0\0\0\0"),
            Refused(&["entry \"dev\""]),
        ),
    ]);
}

#[test]
fn owners_out_of_range() {
    for (key, value) in [("uid", "-1"), ("gid", "-2"), ("uid", "4294967295"), ("gid", "4294967296")]
    {
        run(&[case(
            "owner",
            move |_| archive(&[pax(&[(key, value.as_bytes())]), entry("x", b'5', b"", |_| {})]),
            Refused(&["entry \"x\"", "is out of range"]),
        )]);
    }
    let arena = Arena::new();
    let bytes = archive(&[
        pax(&[("uid", b"4294967294"), ("gid", b"3000000000")]),
        entry("x", b'0', b"", |block| octal(&mut block[108..116], 5)),
    ]);
    arena.apply(&bytes, Way::Worker, Limits::default()).unwrap();
    let meta = fs::metadata(arena.tree().join("x")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (u32::MAX - 1, 3_000_000_000));
}
