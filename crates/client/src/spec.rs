//! The specification of a container: containerd's defaults (`oci.WithDefaultSpec`
//! of the Go client), the image's configuration, and what the caller asks for.

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

use crate::user::User;

/// The type under which containerd stores a specification.
pub const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The type under which a further process is handed to a task.
pub const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What a container may do when nobody says otherwise.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability that Linux knows, by its number.
pub const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// All that this program may do itself: nobody can give more than he has.
fn own_capabilities() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX);
    let numbered = ALL_CAPABILITIES.iter().enumerate();
    numbered.filter(|(number, _)| mask >> number & 1 == 1).map(|(_, name)| *name).collect()
}

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A mount into the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecMount {
    /// The filesystem's type; `bind` for a directory or file of the host.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where, in the container.
    pub target: String,
    /// Options as for mount(8).
    pub options: Vec<String>,
}

/// What a container shall be; the defaults are those of an image's own choice.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// What to run instead of the image's command.
    pub command: Vec<String>,
    /// What to run instead of the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Variables beside the image's, `NAME=value`.
    pub env: Vec<String>,
    /// The working directory instead of the image's.
    pub cwd: Option<String>,
    /// Who it runs as; see [`crate::user::find`].
    pub user: User,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Its host name.
    pub hostname: Option<String>,
    /// Whether its root cannot be written.
    pub read_only: bool,
    /// Whether it shares the host's network.
    pub host_network: bool,
    /// Mounts beside the usual ones.
    pub mounts: Vec<SpecMount>,
    /// Memory limit in bytes.
    pub memory: Option<i64>,
    /// How many processors' worth of time it may use.
    pub cpus: Option<f64>,
    /// How many processes it may have.
    pub pids: Option<i64>,
    /// Capabilities beside the default ones, `CAP_…`.
    pub cap_add: Vec<String>,
    /// Capabilities that it shall not have.
    pub cap_drop: Vec<String>,
    /// `/NAMESPACE/ID`, below the root of each hierarchy.
    pub cgroup: String,
    /// Whether the host's hierarchy is cgroup v2.
    pub cgroup_v2: bool,
}

/// Why no specification can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither the image nor the command line says what to run")]
pub struct NothingToRun;

impl Wish {
    /// The whole specification (OCI runtime specification 1.0.2).
    ///
    /// # Errors
    /// When there is no command.
    pub fn spec(&self, image: &ImageConfiguration) -> Result<Value, NothingToRun> {
        let process = self.process(image)?;
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": "rootfs", "readonly": self.read_only},
            "mounts": self.all_mounts(),
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": self.namespaces(),
                "resources": self.resources(),
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        });
        if let Some(hostname) = self.hostname.as_ref().filter(|_| !self.host_network) {
            spec["hostname"] = json!(hostname);
        }
        Ok(spec)
    }

    fn process(&self, image: &ImageConfiguration) -> Result<Value, NothingToRun> {
        let config = image.config().as_ref();
        let own = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
        let mut args = match &self.entrypoint {
            Some(entrypoint) => entrypoint.clone(),
            None => own(config.map(|c| c.entrypoint())),
        };
        if !self.command.is_empty() {
            args.extend(self.command.iter().cloned());
        } else if self.entrypoint.is_none() {
            args.extend(own(config.map(|c| c.cmd())));
        }
        if args.is_empty() {
            return Err(NothingToRun);
        }
        let mut env = own(config.map(|c| c.env()));
        if !env.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        }
        if self.terminal {
            set_variable(&mut env, "TERM=xterm");
        }
        for variable in &self.env {
            set_variable(&mut env, variable);
        }
        let of_image = config.and_then(|c| c.working_dir().clone()).filter(|dir| !dir.is_empty());
        let cwd = self.cwd.clone().or(of_image).unwrap_or_else(|| "/".into());
        let capabilities = self.capabilities();
        Ok(json!({
            "terminal": self.terminal,
            "user": {
                "uid": self.user.uid, "gid": self.user.gid, "additionalGids": self.user.groups,
            },
            "args": args,
            "env": env,
            "cwd": cwd,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        }))
    }

    /// `CAP_ALL` stands for all of them, and a name of its own is stronger.
    fn capabilities(&self) -> Vec<String> {
        let all = |names: &[String]| names.iter().any(|name| name == "CAP_ALL");
        let base = match (all(&self.cap_drop), all(&self.cap_add)) {
            (true, _) => Vec::new(),
            (false, true) => own_capabilities(),
            (false, false) => CAPABILITIES.to_vec(),
        };
        let mut list: Vec<String> = base.into_iter().map(str::to_owned).collect();
        list.retain(|name| !self.cap_drop.contains(name));
        for name in self.cap_add.iter().filter(|name| *name != "CAP_ALL") {
            if !list.contains(name) {
                list.push(name.clone());
            }
        }
        list
    }

    fn namespaces(&self) -> Vec<Value> {
        let mut kinds = vec!["pid", "ipc", "uts", "mount"];
        if !self.host_network {
            kinds.push("network");
        }
        if self.cgroup_v2 {
            kinds.push("cgroup");
        }
        kinds.into_iter().map(|kind| json!({"type": kind})).collect()
    }

    fn resources(&self) -> Value {
        let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
        if let Some(limit) = self.memory {
            resources["memory"] = json!({"limit": limit});
        }
        if let Some(cpus) = self.cpus {
            // The scheduler's period, in microseconds.
            const PERIOD: f64 = 100_000.0;
            resources["cpu"] = json!({"quota": (cpus * PERIOD) as i64, "period": PERIOD as u64});
        }
        if let Some(limit) = self.pids {
            resources["pids"] = json!({"limit": limit});
        }
        resources
    }

    fn all_mounts(&self) -> Vec<Value> {
        let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
        let quiet = ["nosuid", "noexec", "nodev"];
        let mut mounts = vec![
            mount("/proc", "proc", "proc", &quiet),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            ),
            mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ];
        if self.host_network {
            for file in ["/etc/resolv.conf", "/etc/hosts"] {
                if std::path::Path::new(file).exists() {
                    mounts.push(mount(file, "bind", file, &["rbind", "ro"]));
                }
            }
        }
        for own in &self.mounts {
            let options: Vec<&str> = own.options.iter().map(String::as_str).collect();
            mounts.push(mount(&own.target, &own.kind, &own.source, &options));
        }
        mounts
    }
}

/// Sets `NAME=value` in an environment, in place of what `NAME` was.
fn set_variable(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    env.retain(|old| old.split('=').next() != Some(name));
    env.push(variable.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: Value) -> ImageConfiguration {
        let document = json!({
            "architecture": "amd64", "os": "linux", "config": json,
            "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn the_command_is_the_callers_or_the_images() {
        let image = image(json!({"Entrypoint": ["/init"], "Cmd": ["serve"]}));
        let words = |list: &[&str]| list.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        for (entrypoint, command, expected) in [
            (None, vec![], vec!["/init", "serve"]),
            (None, vec!["check"], vec!["/init", "check"]),
            (Some(vec!["sh"]), vec![], vec!["sh"]),
            (Some(vec!["sh"]), vec!["-c"], vec!["sh", "-c"]),
            (Some(vec![]), vec!["only"], vec!["only"]),
        ] {
            let wish = Wish {
                entrypoint: entrypoint.as_deref().map(words),
                command: words(&command),
                ..Wish::default()
            };
            assert_eq!(wish.spec(&image).unwrap()["process"]["args"], json!(expected));
        }
        let empty = Wish { entrypoint: Some(vec![]), ..Wish::default() };
        assert_eq!(empty.spec(&image), Err(NothingToRun));
    }

    #[test]
    fn variables_replace_those_of_the_image() {
        let image = image(json!({"Cmd": ["true"], "Env": ["PATH=/bin", "A=1"]}));
        let wish = Wish { env: vec!["A=2".into(), "B=3".into()], ..Wish::default() };
        assert_eq!(
            wish.spec(&image).unwrap()["process"]["env"],
            json!(["PATH=/bin", "A=2", "B=3"])
        );
    }

    #[test]
    fn capabilities_are_dropped_before_they_are_added() {
        let wish = Wish {
            cap_drop: vec!["CAP_ALL".into()],
            cap_add: vec!["CAP_KILL".into()],
            ..Wish::default()
        };
        assert_eq!(wish.capabilities(), ["CAP_KILL"]);
        let most = Wish {
            cap_add: vec!["CAP_ALL".into()],
            cap_drop: vec!["CAP_KILL".into()],
            ..Wish::default()
        };
        let most = most.capabilities();
        assert!(!most.iter().any(|name| name == "CAP_ALL" || name == "CAP_KILL"), "{most:?}");
        assert_eq!(most.len() + 1, own_capabilities().len());
    }
}
