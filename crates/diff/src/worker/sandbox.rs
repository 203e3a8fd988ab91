//! What a worker gives up. Everything happens before the first thread is
//! started, since the kernel keeps all of it per thread.

use std::path::Path;

use davit_types::Mount;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError,
};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::Error;
use crate::root::Root;

/// What is still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A tree is written, whoever its files belong to.
    Writing,
    /// Trees are read, whoever their files belong to.
    Reading,
    /// So are overlayfs' marks on directories.
    ReadingMarks,
}

impl Need {
    fn capabilities(self) -> CapabilitySet {
        match self {
            // SYS_ADMIN is for attributes in `trusted.`, overlayfs' own mark
            // of opaque directories among them; the filter of system calls
            // takes the rest of it away.
            Self::Writing => {
                CapabilitySet::CHOWN
                    | CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::FOWNER
                    | CapabilitySet::FSETID
                    | CapabilitySet::MKNOD
                    | CapabilitySet::SETFCAP
                    | CapabilitySet::SYS_ADMIN
            }
            Self::Reading => CapabilitySet::DAC_READ_SEARCH,
            // As above; without it the marks would look as if not there.
            Self::ReadingMarks => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_ADMIN,
        }
    }
}

fn broken<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Worker(format!("{what}: {error}"))
}

/// Ties the process to its parent, and takes the network and everybody
/// else's view of its mounts away.
pub(super) fn isolate(parent: u32) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(broken("prctl PDEATHSIG"))?;
    let ours = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if ours != Some(parent) {
        return Err(Error::Worker("whoever started this is gone".to_owned()));
    }
    use nix::sched::{CloneFlags, unshare};
    let spaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    unshare(spaces).map_err(broken("unshare"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(broken("make mounts private"))
}

/// Mounts a file system of our own over the scratch directory, so that
/// nothing stays there whatever happens to us.
pub(super) fn private_scratch(scratch: &Path) -> Result<&Path, Error> {
    let tmpfs = Mount {
        kind: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        target: String::new(),
        options: vec!["mode=0700".to_owned(), "size=64k".to_owned()],
    };
    davit_sys::mount::mount(&tmpfs, scratch).map_err(Error::Mount)?;
    Ok(scratch)
}

/// Gives up everything but the trees and what it takes to write or read
/// them.
pub(super) fn confine(written: &[&Root], read: &[&Root], need: Need) -> Result<(), Error> {
    rustix::thread::set_no_new_privs(true).map_err(broken("prctl NO_NEW_PRIVS"))?;
    if let Err(error) = restrict_files(written, read) {
        // Older kernels, or built without it.
        log::debug!(error:%; "go on without Landlock");
    }
    let sets = rustix::thread::capabilities(None).map_err(broken("capget"))?;
    let kept = sets.permitted & need.capabilities();
    let kept =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, kept).map_err(broken("capset"))?;
    forbid_system_calls()
}

/// What neither writing nor comparing trees calls for: other processes, other
/// programs, mounts, namespaces, the network, the kernel's own affairs.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_connect,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_socket,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Has them fail with `EPERM`. Where there are no such filters, the rest has
/// to do.
fn forbid_system_calls() -> Result<(), Error> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let arch = match std::env::consts::ARCH.try_into() {
        Ok(arch) => arch,
        Err(_) => return Ok(()),
    };
    // No condition on arguments: the call itself.
    let rules = FORBIDDEN.iter().map(|&call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).map_err(broken("make a seccomp filter"))?;
    if let Err(error) = apply_filter(&program) {
        log::warn!(error:%; "go on without a seccomp filter");
    }
    Ok(())
}

fn restrict_files(written: &[&Root], read: &[&Root]) -> Result<(), RulesetError> {
    let abi = ABI::V3;
    let mut ruleset = Ruleset::default()
        // Without it (Linux 5.19), every link to another directory would be
        // refused.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .create()?;
    for root in written {
        ruleset = ruleset.add_rule(PathBeneath::new(root.dir(), AccessFs::from_all(abi)))?;
    }
    for root in read {
        ruleset = ruleset.add_rule(PathBeneath::new(root.dir(), AccessFs::from_read(abi)))?;
    }
    ruleset.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{self, ErrorKind::PermissionDenied, Write};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// Runs `body` on a thread of its own, which alone is confined to a tree.
    fn confined(body: impl FnOnce(&Path, &Path) + Send) {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(inside.path().join("there"), "x").unwrap();
        fs::create_dir(inside.path().join("dir")).unwrap();
        fs::write(outside.path().join("there"), "x").unwrap();
        let root = Root::open(inside.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confine(&[&root], &[], Need::Writing).unwrap();
                body(inside.path(), outside.path());
            });
        });
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    /// Whether the kernel has of Landlock what is needed; says so if not, where
    /// the test harness does not hide it.
    fn has_landlock() -> bool {
        let asked = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)
            .and_then(Ruleset::create);
        if let Err(error) = &asked {
            let told = writeln!(io::stderr(), "NOT TESTED: no Landlock in this kernel: {error}");
            told.unwrap();
        }
        asked.is_ok()
    }

    /// The capabilities that are left would do for all of it: Landlock alone
    /// forbids it.
    #[test]
    fn nothing_outside_the_tree_can_be_opened() {
        let has_landlock = has_landlock();
        confined(|inside, outside| {
            fs::write(inside.join("new"), "x").unwrap();
            fs::hard_link(inside.join("new"), inside.join("dir/link")).unwrap();
            fs::rename(inside.join("there"), inside.join("dir/there")).unwrap();
            assert_eq!(fs::read(inside.join("dir/link")).unwrap(), b"x");
            if !has_landlock {
                return;
            }
            let refused = |what: &str, result: io::Result<()>| {
                let error = result.expect_err(what);
                assert_eq!(error.kind(), PermissionDenied, "{what}: {error}");
            };
            refused("read", File::open(outside.join("there")).map(drop));
            refused("read what all may", File::open("/etc/passwd").map(drop));
            refused("list", fs::read_dir("/").map(drop));
            refused("make", File::create(outside.join("new")).map(drop));
            refused("write", File::options().append(true).open(outside.join("there")).map(drop));
            refused("make a directory", fs::create_dir(outside.join("dir")));
            refused("link", std::os::unix::fs::symlink("x", outside.join("link")));
            refused("remove", fs::remove_file(outside.join("there")));
        });
    }

    #[test]
    fn nothing_more_is_held_than_what_is_needed() {
        confined(|_, _| {
            let held = rustix::thread::capabilities(None).unwrap();
            assert_eq!(held.inheritable, CapabilitySet::empty());
            for set in [held.effective, held.permitted] {
                assert!(Need::Writing.capabilities().contains(set), "{set:?}");
            }
            assert!(rustix::thread::no_new_privs().unwrap());
        });
    }

    #[test]
    fn system_calls_that_nobody_needs_fail() {
        use nix::sched::{CloneFlags, unshare};
        confined(|_, _| {
            let error = UnixDatagram::unbound().expect_err("a socket was made");
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            // SYS_ADMIN is still there.
            assert_eq!(unshare(CloneFlags::CLONE_NEWUTS), Err(nix::Error::EPERM));
            let moved = rustix::mount::mount_bind("/", "/");
            assert_eq!(moved.err(), Some(rustix::io::Errno::PERM));
        });
    }
}
