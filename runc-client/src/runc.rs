//! The client's settings, and the command lines that follow from them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::args::Args;
use crate::sealed::{SealedCopy, find_binary};
use crate::spawn::{Spawner, TokioSpawner};

/// Variables by which a service's supervisor talks to the service. A runtime
/// acts on some of them (runc passes LISTEN_FDS and NOTIFY_SOCKET into the
/// container), so it gets none.
const SUPERVISOR_VARIABLES: [&str; 8] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "MAINPID",
    "FDSTORE",
];

/// The form of the runtime's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Lines for people.
    Text,
}

/// Whether the runtime works without being root (`--rootless`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rootless {
    /// Decided by the runtime.
    Auto,
    /// Yes.
    True,
    /// No.
    False,
}

/// What a runtime process gets when its parent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathSignal {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
}

/// A runtime binary and how to call it.
///
/// Cheap to make and to clone; it holds no process and no descriptor. One call
/// is one process. All calls must be made inside a tokio runtime with I/O and
/// time enabled.
///
/// Dropping a call's future kills the runtime process and reaps it. Its
/// children (hooks, the process of a run or exec without `detach`) are killed
/// first, so that it can clean up; it has 2 s for that. What is left after a
/// runtime that did not, [`Runc::delete`] with `force` removes.
#[derive(Clone, Debug)]
pub struct Runc {
    pub(crate) binary: PathBuf,
    pub(crate) root: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
    pub(crate) debug: bool,
    pub(crate) systemd_cgroup: bool,
    pub(crate) rootless: Option<Rootless>,
    pub(crate) extra_args: Vec<OsString>,
    pub(crate) working_dir: Option<PathBuf>,
    pub(crate) temp_dir: Option<PathBuf>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) parent_death_signal: Option<DeathSignal>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) sealed_copy: Option<Arc<SealedCopy>>,
    pub(crate) spawner: Arc<dyn Spawner>,
}

impl Runc {
    /// A client of `binary`: a name that is looked up in `PATH`, or a path.
    /// Nothing is run yet.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            root: None,
            log: None,
            log_format: LogFormat::default(),
            debug: false,
            systemd_cgroup: false,
            rootless: None,
            extra_args: Vec::new(),
            working_dir: None,
            temp_dir: None,
            env: Vec::new(),
            parent_death_signal: None,
            timeout: None,
            sealed_copy: None,
            spawner: Arc::new(TokioSpawner),
        }
    }

    /// Directory of the runtime's state (`--root`); the runtime's own default otherwise.
    #[must_use]
    pub fn root(mut self, dir: impl Into<PathBuf>) -> Self {
        self.root = Some(dir.into());
        self
    }

    /// File that the runtime appends its log to. Without one, calls whose
    /// stderr belongs to a container use a private temporary file.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// Form of the log; JSON by default. Errors are read from either form.
    #[must_use]
    pub fn log_format(mut self, format: LogFormat) -> Self {
        self.log_format = format;
        self
    }

    /// Lets the runtime log what it does.
    #[must_use]
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = debug;
        self
    }

    /// Lets systemd manage cgroups.
    #[must_use]
    pub fn systemd_cgroup(mut self, systemd: bool) -> Self {
        self.systemd_cgroup = systemd;
        self
    }

    /// Tells the runtime whether to work without being root.
    #[must_use]
    pub fn rootless(mut self, rootless: Rootless) -> Self {
        self.rootless = Some(rootless);
        self
    }

    /// Adds a global argument, put before the operation's name.
    #[must_use]
    pub fn extra_arg(mut self, arg: impl Into<OsString>) -> Self {
        self.extra_args.push(arg.into());
        self
    }

    /// Directory that the runtime is run in; the caller's by default.
    #[must_use]
    pub fn working_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(dir.into());
        self
    }

    /// Directory for private temporary files (process specifications, logs);
    /// the system's by default. On a tmpfs is best.
    #[must_use]
    pub fn temp_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.temp_dir = Some(dir.into());
        self
    }

    /// Sets a variable in the runtime's environment, which is the caller's
    /// without the variables of a service supervisor (`NOTIFY_SOCKET`,
    /// `LISTEN_FDS` and so on).
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Signal that the runtime process gets when the *thread* that started it
    /// ends, which on a multi-thread runtime is not when the program ends: set
    /// it only where that thread lives as long as the program.
    ///
    /// The command is run through `setpriv --pdeathsig` (util-linux 2.33).
    #[must_use]
    pub fn parent_death_signal(mut self, signal: DeathSignal) -> Self {
        self.parent_death_signal = Some(signal);
        self
    }

    /// Time limit of each call, except for those that last as long as a
    /// container does (run, exec and restore without `detach`, events). None by
    /// default. When it is exceeded the runtime process is killed and reaped as
    /// if the call had been dropped, and what a create, run or restore had made
    /// is deleted (if the runtime tells when it was created: runsc does not).
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Runs `copy` in place of the binary, as long as that is what was copied.
    /// Not where the command is run through `setpriv`, or found by another `PATH`.
    #[must_use]
    pub fn sealed_copy(mut self, copy: Arc<SealedCopy>) -> Self {
        self.sealed_copy = Some(copy);
        self
    }

    /// Starts processes with `spawner` in place of [`TokioSpawner`].
    #[must_use]
    pub fn spawner(mut self, spawner: Arc<dyn Spawner>) -> Self {
        self.spawner = spawner;
        self
    }

    /// The runtime, as given to [`Runc::new`].
    pub fn binary(&self) -> &Path {
        &self.binary
    }
}

impl Runc {
    /// The command up to the operation: program, environment, global arguments.
    pub(crate) fn command(&self, log: Option<&Path>) -> Command {
        let mut command = match self.parent_death_signal {
            None => self.program(),
            Some(signal) => {
                let name = match signal {
                    DeathSignal::Kill => "KILL",
                    DeathSignal::Terminate => "TERM",
                };
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", name]).arg(find_binary(&self.binary));
                command
            }
        };
        command.args(self.global_args(log).0);
        for name in SUPERVISOR_VARIABLES {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            command.env(name, value);
        }
        // A child that only has to run a program is made without copying this
        // process; libraries that are linked statically cannot move one.
        let is_there = |dir: &PathBuf| std::env::current_dir().is_ok_and(|here| here == *dir);
        if let Some(dir) = self.working_dir.as_ref().filter(|dir| !is_there(dir)) {
            command.current_dir(dir);
        }
        command
    }

    fn program(&self) -> Command {
        let is_name = self.binary.components().count() == 1;
        let is_elsewhere = is_name && self.env.iter().any(|(name, _)| name == "PATH");
        let copy = self.sealed_copy.as_ref();
        let copy = copy.filter(|copy| !is_elsewhere && copy.is_of(&self.binary));
        let Some(copy) = copy else { return Command::new(&self.binary) };
        let mut command = Command::new(copy.path());
        command.arg0(&self.binary);
        command
    }

    fn global_args(&self, log: Option<&Path>) -> Args {
        let format = match self.log_format {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        };
        // In one word: runsc takes it for a switch otherwise.
        let rootless = match self.rootless {
            None => "",
            Some(Rootless::Auto) => "--rootless=auto",
            Some(Rootless::True) => "--rootless=true",
            Some(Rootless::False) => "--rootless=false",
        };
        let mut args = Args::default()
            .value("--root", self.root.as_ref())
            .flag("--debug", self.debug)
            .value("--log", log)
            .value("--log-format", Some(format))
            .flag("--systemd-cgroup", self.systemd_cgroup)
            .flag(rootless, self.rootless.is_some());
        args.0.extend_from_slice(&self.extra_args);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn global_arguments_say_what_is_set() {
        let plain = Runc::new("runc");
        assert_eq!(words(&plain.command(None)), "runc --log-format json");
        let full = Runc::new("/opt/crun")
            .root("/r")
            .log("/l")
            .log_format(LogFormat::Text)
            .debug(true)
            .systemd_cgroup(true)
            .rootless(Rootless::Auto)
            .extra_arg("--x=y");
        assert_eq!(
            words(&full.command(full.log.as_deref())),
            "/opt/crun --root /r --debug --log /l --log-format text --systemd-cgroup \
             --rootless=auto --x=y"
        );
    }

    #[test]
    fn the_supervisors_variables_are_removed() {
        let runc = Runc::new("runc").env("A", "b").env("LISTEN_FDS", "1").working_dir("/");
        let command = runc.command(None);
        let env: Vec<_> = command.get_envs().collect();
        assert!(env.contains(&("NOTIFY_SOCKET".as_ref(), None)));
        assert!(env.contains(&("A".as_ref(), Some("b".as_ref()))));
        assert!(
            env.contains(&("LISTEN_FDS".as_ref(), Some("1".as_ref()))),
            "the caller's own word"
        );
        assert_eq!(command.get_current_dir(), Some(Path::new("/")));
    }

    #[test]
    fn a_sealed_copy_is_run_while_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crun");
        std::fs::write(&path, b"\x7fELF").unwrap();
        let copy = Arc::new(SealedCopy::of(&path, 4).unwrap().unwrap());
        let program = |runc: &Runc| words(&runc.command(None));
        let runc = Runc::new(&path).sealed_copy(Arc::clone(&copy));
        assert!(program(&runc).starts_with("/proc/self/fd/"), "{}", program(&runc));
        let other = Runc::new("/bin/true").sealed_copy(Arc::clone(&copy));
        assert!(program(&other).starts_with("/bin/true "));
        let elsewhere = Runc::new("crun").env("PATH", dir.path()).sealed_copy(copy);
        assert!(program(&elsewhere).starts_with("crun "));
        std::fs::write(&path, b"\x7fELF, another").unwrap();
        assert!(program(&runc).starts_with(&format!("{} ", path.display())));
    }

    #[test]
    fn a_parent_death_signal_goes_through_setpriv() {
        let runc = Runc::new("/opt/crun").parent_death_signal(DeathSignal::Kill);
        assert_eq!(
            words(&runc.command(None)),
            "setpriv --pdeathsig KILL /opt/crun --log-format json"
        );
    }
}
