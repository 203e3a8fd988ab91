//! Which variant of ARM this machine is. Nothing is looked for on others:
//! that an image for `amd64/v3` runs here must be asked for by its name, as
//! with containerd 2.1.

use std::fs;
use std::sync::OnceLock;

use super::{Platform, names};

const CPUINFO: &str = "/proc/cpuinfo";

/// The machine that this runs on.
pub fn platform() -> Platform {
    static VARIANT: OnceLock<String> = OnceLock::new();
    let architecture = names::host_architecture();
    let variant = VARIANT.get_or_init(|| match architecture {
        "arm" | "arm64" => {
            let cpuinfo = fs::read_to_string(CPUINFO).unwrap_or_default();
            arm_variant(architecture, &cpuinfo, &machine()).to_owned()
        }
        _ => String::new(),
    });
    Platform::new(names::HOST_OS, architecture, variant)
}

/// What uname(2) calls the machine: `armv7l`.
fn machine() -> String {
    let names = nix::sys::utsname::uname();
    names.map(|names| names.machine().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The variant by what the kernel says of the first processor, or, in
/// emulation, where that is another machine's, by the machine's name.
fn arm_variant(architecture: &str, cpuinfo: &str, machine: &str) -> &'static str {
    let machine = machine.to_lowercase();
    let mut version = match field(cpuinfo, "cpu architecture") {
        Some(version) => version.to_lowercase(),
        None if machine == "aarch64" => "8".to_owned(),
        None => machine.strip_prefix("armv").and_then(|rest| rest.get(..1)).unwrap_or("").into(),
    };
    let model = field(cpuinfo, "model name").unwrap_or_default().to_lowercase();
    // The first Raspberry Pis say 7 and mean 6.
    if architecture == "arm" && version == "7" && model.starts_with("armv6-compatible") {
        version = "6".to_owned();
    }
    match version.as_str() {
        "8" | "aarch64" => "v8",
        "7" | "7m" | "?(12)" | "?(13)" | "?(14)" | "?(15)" | "?(16)" | "?(17)" => "v7",
        "6" | "6tej" => "v6",
        "5" | "5t" | "5te" | "5tej" => "v5",
        "4" | "4t" => "v4",
        "3" => "v3",
        _ => "unknown",
    }
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_known_platform() {
        let platform = platform();
        assert_eq!(platform.os, "linux");
        assert!(names::is_known_architecture(&platform.architecture), "{platform}");
        assert_ne!(platform.variant, "unknown");
    }

    #[test]
    fn arm_variants_are_what_the_kernel_says() {
        let says = |version: &str| format!("processor : 0\nCPU architecture: {version}\n\n");
        for (version, variant) in [
            ("8", "v8"),
            ("AArch64", "v8"),
            ("7", "v7"),
            ("?(12)", "v7"),
            ("6TEJ", "v6"),
            ("5TE", "v5"),
        ] {
            assert_eq!(arm_variant("arm", &says(version), "armv7l"), variant, "{version}");
        }
        assert_eq!(arm_variant("arm", &says("99"), "armv7l"), "unknown");
        let pi = "model name\t: ARMv6-compatible processor rev 7 (v6l)\nCPU architecture: 7\n";
        assert_eq!(arm_variant("arm", pi, "armv6l"), "v6");
        assert_eq!(arm_variant("arm64", pi, "aarch64"), "v7");
    }

    #[test]
    fn in_emulation_the_machine_s_name_says_it() {
        let other = "vendor_id : GenuineIntel\nmodel name : Xeon\n";
        for (machine, variant) in [
            ("aarch64", "v8"),
            ("armv8l", "v8"),
            ("armv7l", "v7"),
            ("armv6l", "v6"),
            ("x86_64", "unknown"),
        ] {
            assert_eq!(arm_variant("arm", other, machine), variant, "{machine}");
        }
    }
}
