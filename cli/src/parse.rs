//! From words of the command line to what they mean. Every refusal says what
//! was wrong.

use std::fs;
use std::path::Path;

use davit_client::spec::{ALL_CAPABILITIES, SpecMount};
use davit_types::{Platform, labels};

use crate::Error;

/// A signal's number, as the kernel counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub u32);

/// The longest host name that Linux takes, in bytes.
pub const HOSTNAME_LIMIT: usize = 64;

/// The largest number of a signal on Linux.
const SIGNAL_LIMIT: u32 = 64;

/// `linux/arm64`, `arm64`, `linux/arm/v7`.
pub fn platform(text: &str) -> Result<Platform, String> {
    Platform::parse(text).map_err(|error| error.to_string())
}

/// `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
pub fn signal(text: &str) -> Result<Signal, String> {
    let unknown = || format!("no signal is called {text:?}");
    if let Ok(number) = text.parse::<u32>() {
        return (1..=SIGNAL_LIMIT)
            .contains(&number)
            .then_some(Signal(number))
            .ok_or_else(|| format!("signals have numbers from 1 to {SIGNAL_LIMIT}"));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // glibc's numbers, which programs in containers go by.
    for (base, mark, start, step) in [("RTMIN", '+', 34, 1), ("RTMAX", '-', 64, -1)] {
        let Some(rest) = name.strip_prefix(base) else { continue };
        let digits = if rest.is_empty() { Some("0") } else { rest.strip_prefix(mark) };
        let offset = digits.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let offset: i32 = offset.and_then(|text| text.parse().ok()).ok_or_else(unknown)?;
        return match offset {
            0..=30 => Ok(Signal((start + step * offset) as u32)),
            _ => Err(unknown()),
        };
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    Ok(Signal(signal as u32))
}

/// `512m`, `1g`, `4096`, also `64MiB` and `1.5g`; a byte count.
pub fn size(text: &str) -> Result<i64, String> {
    let refuse = || format!("{text:?} is no size; write a number with b, k, m, g or t behind");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(refuse()),
    };
    let unit = 1i64 << shift;
    let bytes = match digits.parse::<i64>() {
        Ok(whole) => whole.checked_mul(unit).ok_or_else(refuse)?,
        Err(_) => {
            let number: f64 = digits.parse().map_err(|_| refuse())?;
            let bytes = number * unit as f64;
            if !bytes.is_finite() || bytes >= i64::MAX as f64 {
                return Err(refuse());
            }
            bytes as i64
        }
    };
    if bytes > 0 { Ok(bytes) } else { Err(format!("{text:?} is not more than nothing")) }
}

/// A number of processors, fractions allowed.
pub fn cpus(text: &str) -> Result<f64, String> {
    // A hundredth is the kernel's least quota, of 1 ms, in a period of 100 ms.
    match text.parse::<f64>() {
        Ok(number) if (0.01..=100_000.0).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is no number of processors; write 0.5 or 2, at least 0.01")),
    }
}

/// `NET_ADMIN`, `cap_net_admin`, `ALL`; the kernel's name with `CAP_`.
pub fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let full = format!("CAP_{name}");
    if full != "CAP_ALL" && !ALL_CAPABILITIES.contains(&full.as_str()) {
        return Err(format!("{text:?} is no capability; write NET_ADMIN, for instance, or ALL"));
    }
    Ok(full)
}

/// `KEY=VALUE`, or `KEY` for an empty value.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("a label needs a key".into());
    }
    labels::validate(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A path in the container, from its root on.
pub fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} does not start with /"))
    }
}

/// A host name of a length that Linux takes.
pub fn hostname(text: &str) -> Result<String, String> {
    if (1..=HOSTNAME_LIMIT).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a host name has 1 to {HOSTNAME_LIMIT} bytes"))
    }
}

/// `type=bind,src=/a,dst=/b,options=rbind:ro`, with docker's words too.
pub fn mount(text: &str) -> Result<SpecMount, String> {
    let mut mount = SpecMount::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "type" => mount.kind = value.to_owned(),
            "src" | "source" => mount.source = value.to_owned(),
            "dst" | "destination" | "target" => mount.target = value.to_owned(),
            "options" => mount.options.extend(value.split(':').map(str::to_owned)),
            "ro" | "readonly" => match value {
                "" | "true" | "1" => mount.options.push("ro".into()),
                "false" | "0" => {}
                _ => return Err(format!("{field:?}: neither true nor false")),
            },
            "rw" => mount.options.push("rw".into()),
            "tmpfs-size" => mount.options.push(format!("size={value}")),
            "tmpfs-mode" => mount.options.push(format!("mode={value}")),
            "bind-propagation" => mount.options.push(value.to_owned()),
            _ => {
                return Err(format!("{key:?} is not one of type, src, dst, options, ro"));
            }
        }
    }
    if mount.kind.is_empty() {
        mount.kind = "bind".into();
    }
    complete(mount)
}

/// `SOURCE:TARGET` or `SOURCE:TARGET:ro,nosuid`.
pub fn volume(text: &str) -> Result<SpecMount, String> {
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(format!("{text:?}: write SOURCE:TARGET or SOURCE:TARGET:ro"));
    };
    let options = parts.next().unwrap_or_default().split(',').filter(|option| !option.is_empty());
    complete(SpecMount {
        kind: "bind".into(),
        source: source.to_owned(),
        target: target.to_owned(),
        options: options.map(str::to_owned).collect(),
    })
}

/// Fills in what goes without saying and refuses what cannot work.
fn complete(mut mount: SpecMount) -> Result<SpecMount, String> {
    if !mount.target.starts_with('/') {
        return Err(format!("the target {:?} does not start with /", mount.target));
    }
    if !["bind", "rbind"].contains(&mount.kind.as_str()) {
        if mount.source.is_empty() {
            mount.source.clone_from(&mount.kind);
        }
        return Ok(mount);
    }
    mount.kind = "bind".into();
    if mount.source.is_empty() {
        return Err("the source is missing".into());
    }
    let source = fs::canonicalize(&mount.source);
    let source = source.map_err(|error| format!("the source {:?}: {error}", mount.source))?;
    mount.source =
        source.into_os_string().into_string().map_err(|path| format!("{path:?} is not UTF-8"))?;
    if !mount.options.iter().any(|option| option == "bind" || option == "rbind") {
        mount.options.insert(0, "rbind".into());
    }
    Ok(mount)
}

/// Variables of `--env-file` and `--env`, the later ones winning. A name alone
/// takes its value from `lookup`, and is left out where that has none.
///
/// # Errors
/// A file that cannot be read, a line or a word without a name.
pub fn environment(
    files: &[impl AsRef<Path>],
    words: &[String],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, Error> {
    let mut variables = Vec::new();
    for file in files {
        let file = file.as_ref();
        let text = fs::read_to_string(file)
            .map_err(|source| Error::Io { what: format!("{}", file.display()), source })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{}:{}", file.display(), number + 1);
            variables.extend(
                variable(line, &lookup)
                    .map_err(|reason| Error::usage(format!("{}: {reason}", place())))?,
            );
        }
    }
    for word in words {
        let value = variable(word, &lookup);
        variables.extend(value.map_err(|reason| Error::usage(format!("--env: {reason}")))?);
    }
    Ok(variables)
}

fn variable(
    word: &str,
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    let name = word.split('=').next().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) || word.contains('\0') {
        return Err(format!("{word:?} is neither NAME=VALUE nor NAME"));
    }
    if word.contains('=') {
        return Ok(Some(word.to_owned()));
    }
    Ok(lookup(name).map(|value| format!("{name}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGUSR1", 10),
            ("RTMIN+3", 37),
            ("SIGRTMIN", 34),
            ("rtmax-1", 63),
        ] {
            assert_eq!(signal(text), Ok(Signal(number)), "{text}");
        }
        for text in ["", "0", "65", "-9", "NOPE", "RTMIN+31", "RTMIN5", "RTMAX+1", "SIG"] {
            assert!(signal(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_in_bytes() {
        for (text, bytes) in
            [("4096", 4096), ("1k", 1024), ("64MiB", 64 << 20), ("1.5g", 3 << 29), ("2T", 2 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "0", "-1", "1x", "9999999999t", "nan", "inf", "1e400"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn processors_and_capabilities() {
        assert_eq!(cpus("1.5"), Ok(1.5));
        for text in ["0", "-1", "nan", "many", "0.001"] {
            assert!(cpus(text).is_err(), "{text:?}");
        }
        for text in ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN"] {
            assert_eq!(capability(text).unwrap(), "CAP_NET_ADMIN");
        }
        assert_eq!(capability("all").unwrap(), "CAP_ALL");
        assert!(
            capability("nosuchcap").is_err()
                && capability("").is_err()
                && capability("net admin").is_err()
        );
    }

    #[test]
    fn mounts_in_full() {
        let tmpfs = mount("type=tmpfs,dst=/tmp,options=size=1m:mode=700,ro").unwrap();
        assert_eq!((tmpfs.kind.as_str(), tmpfs.source.as_str()), ("tmpfs", "tmpfs"));
        assert_eq!(tmpfs.options, ["size=1m", "mode=700", "ro"]);
        let bind = mount("type=bind,src=/,dst=/host,readonly").unwrap();
        assert_eq!(bind.options, ["rbind", "ro"]);
        assert_eq!(mount("src=/,dst=/host,options=bind").unwrap().options, ["bind"]);
        for text in [
            "",
            "type=bind,dst=/x",
            "type=bind,src=/,dst=x",
            "src=/no/such/thing,dst=/x",
            "dst=/x,what=1,src=/",
            "src=/,dst=/x,ro=perhaps",
        ] {
            assert!(mount(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn volumes_in_short() {
        let volume = volume("/tmp/../:/x:ro,nosuid").unwrap();
        assert_eq!((volume.source.as_str(), volume.target.as_str()), ("/", "/x"));
        assert_eq!(volume.options, ["rbind", "ro", "nosuid"]);
        for text in ["", "/", ":/x", "/:x", "/no/such/thing:/x"] {
            assert!(super::volume(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn variables_from_files_words_and_here() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"# all of it\nA=1\n\n  B=x y=z\nHOME\nGONE\n")
            .unwrap();
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let words = ["A=2".to_owned(), "GONE".to_owned()];
        let variables = environment(&[file.path()], &words, lookup).unwrap();
        assert_eq!(variables, ["A=1", "B=x y=z", "HOME=/root", "A=2"]);
    }

    #[test]
    fn what_is_no_variable_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"A=1\nA B=2\n").unwrap();
        let error = environment(&[file.path()], &[], |_| None).unwrap_err().to_string();
        assert!(error.contains(":2: \"A B=2\""), "{error}");
        assert!(environment(&[] as &[&Path], &["=x".into()], |_| None).is_err());
        assert!(environment(&["/no/such/file"], &[], |_| None).is_err());
    }

    #[test]
    fn labels_have_a_key_and_a_limit() {
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("=b").is_err());
        assert!(label(&format!("a={}", "x".repeat(5000))).is_err());
    }
}
