//! The command line of each operation, in the words that runc, crun and runsc
//! share.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::error::{Error, Result};
use crate::options::{CheckpointOptions, CreateOptions, ExecOptions, RestoreOptions};

/// A command line being put together. Options come first, then the id.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args(pub(crate) Vec<OsString>);

impl Args {
    pub(crate) fn of(operation: &'static str) -> Self {
        Self(vec![operation.into()])
    }

    /// Adds a positional argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.push(arg.as_ref().to_owned());
        self
    }

    /// Adds the option `name` if it is set.
    pub(crate) fn flag(self, name: &'static str, set: bool) -> Self {
        if set { self.arg(name) } else { self }
    }

    /// Adds the option `name` with its value if there is one.
    pub(crate) fn value(self, name: &'static str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.arg(name).arg(value),
            None => self,
        }
    }

    fn fds(self, count: usize) -> Self {
        self.value("--preserve-fds", (count > 0).then(|| count.to_string()))
    }

    fn extra(mut self, extra: &[OsString]) -> Self {
        self.0.extend_from_slice(extra);
        self
    }
}

/// Refuses an id that a command line cannot carry or that would name a path
/// outside the runtime's state; what else is wrong with it, the runtime says.
pub(crate) fn check_id(operation: &'static str, id: &str) -> Result<()> {
    const LONGEST: usize = 1024;
    let reason = if id.is_empty() {
        "it is empty"
    } else if id.len() > LONGEST {
        "it is longer than 1024 bytes"
    } else if id.starts_with('-') {
        "it begins with a hyphen"
    } else if id == "." || id == ".." || id.contains(['/', '\0']) {
        "it is not the name of a file"
    } else {
        return Ok(());
    };
    let shown: String = id.chars().take(64).collect();
    Err(Error::Refused { operation, reason: format!("invalid container id {shown:?}: {reason}") })
}

/// `create` and, with `detach`, `run`.
pub(crate) fn create(
    operation: &'static str,
    id: &str,
    bundle: &Path,
    options: &CreateOptions,
    detach: bool,
) -> Args {
    Args::of(operation)
        .value("--bundle", Some(bundle))
        .value("--console-socket", options.console_socket.as_ref())
        .value("--pid-file", options.pid_file.as_ref())
        .flag("--no-pivot", options.no_pivot)
        .flag("--no-new-keyring", options.no_new_keyring)
        .fds(options.preserved_fds.len())
        .flag("--detach", detach)
        .extra(&options.extra_args)
        .arg(id)
}

/// `exec` with the process in a file.
pub(crate) fn exec(id: &str, process: &Path, options: &ExecOptions) -> Args {
    Args::of("exec")
        .value("--process", Some(process))
        .value("--console-socket", options.console_socket.as_ref())
        .value("--pid-file", options.pid_file.as_ref())
        .fds(options.preserved_fds.len())
        .flag("--detach", options.detach)
        .extra(&options.extra_args)
        .arg(id)
}

/// `checkpoint`; a status descriptor is given as number 3.
pub(crate) fn checkpoint(id: &str, options: &CheckpointOptions) -> Args {
    let mut args = Args::of("checkpoint")
        .value("--image-path", options.image_path.as_ref())
        .value("--work-path", options.work_path.as_ref())
        .value("--parent-path", options.parent_path.as_ref())
        .flag("--leave-running", options.leave_running)
        .flag("--tcp-established", options.tcp_established)
        .flag("--ext-unix-sk", options.ext_unix_sockets)
        .flag("--shell-job", options.shell_job)
        .flag("--file-locks", options.file_locks)
        .flag("--pre-dump", options.pre_dump)
        .flag("--lazy-pages", options.lazy_pages)
        .value("--status-fd", options.status_fd.as_ref().map(|_| "3"))
        .value("--page-server", options.page_server.as_ref())
        .value("--manage-cgroups-mode", options.cgroups_mode.map(|mode| mode.as_str()))
        .flag("--auto-dedup", options.auto_dedup);
    for namespace in &options.empty_namespaces {
        args = args.value("--empty-ns", Some(namespace));
    }
    args.extra(&options.extra_args).arg(id)
}

/// `restore`.
pub(crate) fn restore(id: &str, bundle: &Path, options: &RestoreOptions) -> Args {
    let mut args = Args::of("restore")
        .value("--bundle", Some(bundle))
        .value("--image-path", options.image_path.as_ref())
        .value("--work-path", options.work_path.as_ref())
        .value("--console-socket", options.console_socket.as_ref())
        .value("--pid-file", options.pid_file.as_ref())
        .flag("--tcp-established", options.tcp_established)
        .flag("--ext-unix-sk", options.ext_unix_sockets)
        .flag("--shell-job", options.shell_job)
        .flag("--file-locks", options.file_locks)
        .flag("--no-pivot", options.no_pivot)
        .flag("--no-subreaper", options.no_subreaper)
        .flag("--lazy-pages", options.lazy_pages)
        .value("--manage-cgroups-mode", options.cgroups_mode.map(|mode| mode.as_str()))
        .flag("--auto-dedup", options.auto_dedup)
        .value("--lsm-profile", options.lsm_profile.as_ref())
        .value("--lsm-mount-context", options.lsm_mount_context.as_ref())
        .flag("--detach", options.detach);
    for namespace in &options.empty_namespaces {
        args = args.value("--empty-ns", Some(namespace));
    }
    args.extra(&options.extra_args).arg(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::options::CgroupsMode;

    fn line(args: Args) -> String {
        let words: Vec<_> = args.0.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    fn null() -> std::os::fd::OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn create_says_what_is_set() {
        let bundle = Path::new("/b");
        assert_eq!(
            line(create("create", "c", bundle, &CreateOptions::default(), false)),
            "create --bundle /b c"
        );
        let options = CreateOptions {
            console_socket: Some("/s".into()),
            pid_file: Some("/p".into()),
            preserved_fds: vec![null(), null()],
            no_pivot: true,
            no_new_keyring: true,
            extra_args: vec!["--x".into()],
            ..Default::default()
        };
        assert_eq!(
            line(create("run", "c", bundle, &options, true)),
            "run --bundle /b --console-socket /s --pid-file /p --no-pivot --no-new-keyring \
             --preserve-fds 2 --detach --x c"
        );
    }

    #[test]
    fn exec_says_what_is_set() {
        let options = ExecOptions {
            pid_file: Some("/p".into()),
            console_socket: Some("/s".into()),
            preserved_fds: vec![null()],
            detach: true,
            ..Default::default()
        };
        assert_eq!(
            line(exec("c", Path::new("/f"), &options)),
            "exec --process /f --console-socket /s --pid-file /p --preserve-fds 1 --detach c"
        );
    }

    #[test]
    fn checkpoint_and_restore_say_what_is_set() {
        let options = CheckpointOptions {
            image_path: Some("/i".into()),
            work_path: Some("/w".into()),
            parent_path: Some("../p".into()),
            leave_running: true,
            tcp_established: true,
            ext_unix_sockets: true,
            shell_job: true,
            file_locks: true,
            pre_dump: true,
            lazy_pages: true,
            status_fd: Some(null()),
            page_server: Some("[::1]:9".into()),
            cgroups_mode: Some(CgroupsMode::Soft),
            empty_namespaces: vec!["network".into(), "ipc".into()],
            auto_dedup: true,
            extra_args: vec![],
        };
        assert_eq!(
            line(checkpoint("c", &options)),
            "checkpoint --image-path /i --work-path /w --parent-path ../p --leave-running \
             --tcp-established --ext-unix-sk --shell-job --file-locks --pre-dump --lazy-pages \
             --status-fd 3 --page-server [::1]:9 --manage-cgroups-mode soft --auto-dedup \
             --empty-ns network --empty-ns ipc c"
        );
        let options = RestoreOptions {
            image_path: Some("/i".into()),
            no_subreaper: true,
            detach: true,
            lsm_profile: Some("apparmor:x".into()),
            cgroups_mode: Some(CgroupsMode::Ignore),
            ..Default::default()
        };
        assert_eq!(
            line(restore("c", Path::new("/b"), &options)),
            "restore --bundle /b --image-path /i --no-subreaper --manage-cgroups-mode ignore \
             --lsm-profile apparmor:x --detach c"
        );
    }

    #[test]
    fn an_id_cannot_be_an_option_or_a_path() {
        for id in ["", "-a", "--all", ".", "..", "a/b", "../x", "a\0b", &"a".repeat(1025)] {
            let error = check_id("kill", id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.to_string().starts_with("kill: invalid container id"), "{error}");
        }
        for id in ["a", "a-b_c.d+e", "...", &"a".repeat(1024)] {
            check_id("kill", id).unwrap();
        }
    }
}
