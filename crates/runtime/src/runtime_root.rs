//! Where runc and its like keep what they know of containers: below the
//! daemon's own state, so that two daemons never mean the same container by
//! the same namespace and id.
//!
//! Shims for runc take the place from their options and otherwise use one
//! that all containerds of a machine share. So it is filled into the options
//! of a new task; where the client names a place, that holds. A shim's
//! `delete` reads it from the bundle, where the shim keeps its options, and
//! where they are kept before the shim runs, because it may never come to it.

use std::path::{Path, PathBuf};

use davit_protocols::ttrpc::options::Options;
use davit_types::Any;
use protobuf::Message as _;

use crate::bundle::Bundle;
use crate::{Error, names};

/// The message that shims for runc take.
const TYPE: &str = "containerd.runc.v1.Options";
/// What these shims run when they are not told.
const DEFAULT_RUNTIME: &str = "runc";
/// The shims that take it, when nothing was sent that says so.
const SHIMS: [&str; 3] =
    ["containerd-shim-runc-v1", "containerd-shim-runc-v2", "containerd-shim-davit-v2"];
/// Where these shims keep their options in the bundle, as Go's JSON.
const COPY: &str = "options.json";

/// Fills `root` into what is sent to the shim of `runtime`, unless the options
/// name a place already or are not runc's.
pub(crate) fn fill(options: Option<Any>, runtime: &str, root: &Path) -> Option<Any> {
    let sent = options.as_ref().filter(|sent| !sent.value.is_empty());
    let theirs = match sent {
        Some(sent) => is_runcs(sent),
        None => is_for_runc(runtime),
    };
    let Some(root) = root.to_str().filter(|_| theirs) else { return options };
    // What cannot be read is for the shim to refuse.
    let Ok(mut message) = Options::parse_from_bytes(sent.map_or(&[], |sent| &sent.value)) else {
        return options;
    };
    if !message.root.is_empty() {
        return options;
    }
    message.root = root.to_owned();
    let Ok(value) = message.write_to_bytes() else { return options };
    Some(Any { type_url: TYPE.to_owned(), value })
}

/// The runtime that options which were [filled](fill) name: by a path, or by a
/// name that is looked up in `PATH`.
pub(crate) fn binary(options: Option<&Any>) -> Option<PathBuf> {
    let message = read(options)?;
    let name = match message.binary_name.as_str() {
        "" => DEFAULT_RUNTIME,
        name => name,
    };
    let binary = PathBuf::from(name);
    (binary.is_absolute() || !name.contains('/')).then_some(binary)
}

/// Options that are runc's.
fn read(options: Option<&Any>) -> Option<Options> {
    let sent = options.filter(|sent| is_runcs(sent))?;
    Options::parse_from_bytes(&sent.value).ok()
}

/// Keeps in the bundle what the shim's `delete` needs to know of the options.
pub(crate) fn keep(options: Option<&Any>, bundle: &Bundle) -> Result<(), Error> {
    let Some(message) = read(options) else { return Ok(()) };
    let copy = serde_json::json!({"binary_name": message.binary_name, "root": message.root});
    bundle.write(COPY, copy.to_string().as_bytes())
}

/// Puts back what the bundle of a shim that has made no container, or one that
/// was lost, does not say: else the shim would look where others keep theirs.
pub(crate) fn restore(bundle: &Bundle, program: &Path, root: &Path) -> Result<(), Error> {
    match bundle.look(COPY)? {
        Some(_) => Ok(()),
        None => keep(fill(None, &program.to_string_lossy(), root).as_ref(), bundle),
    }
}

fn is_runcs(options: &Any) -> bool {
    options.type_url.rsplit('/').next() == Some(TYPE)
}

/// Whether the runtime's shim is one for runc, by its name.
fn is_for_runc(runtime: &str) -> bool {
    let name = match runtime.starts_with('/') {
        true => Path::new(runtime).file_name().and_then(|name| name.to_str()).map(str::to_owned),
        false => names::binary_name(runtime),
    };
    name.is_some_and(|name| SHIMS.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/run/x/runc";

    fn runc(message: &Options) -> Any {
        Any {
            type_url: format!("type.googleapis.com/{TYPE}"),
            value: message.write_to_bytes().unwrap(),
        }
    }

    fn filled(options: Option<Any>, runtime: &str) -> Option<Any> {
        fill(options, runtime, Path::new(ROOT))
    }

    fn root_of(options: Option<Any>) -> String {
        Options::parse_from_bytes(&options.unwrap().value).unwrap().root
    }

    #[test]
    fn a_missing_root_is_filled_in() {
        for shim in ["/usr/bin/containerd-shim-runc-v2", "io.containerd.davit.v2"] {
            assert_eq!(root_of(filled(None, shim)), ROOT);
            let empty = Any { type_url: TYPE.into(), value: Vec::new() };
            assert_eq!(root_of(filled(Some(empty), shim)), ROOT);
        }
        // Whoever sends runc's options means runc.
        let crun = Options { binary_name: "crun".into(), ..Options::default() };
        let sent = filled(Some(runc(&crun)), "/opt/shim").unwrap();
        let message = Options::parse_from_bytes(&sent.value).unwrap();
        assert_eq!((message.root.as_str(), message.binary_name.as_str()), (ROOT, "crun"));
    }

    #[test]
    fn fields_of_other_versions_stay() {
        // Field 8, a text: "/x", which newer definitions have dropped.
        let old = Any { type_url: TYPE.into(), value: vec![8 << 3 | 2, 2, b'/', b'x'] };
        let sent = filled(Some(old), "/opt/shim").unwrap();
        assert!(sent.value.windows(4).any(|bytes| bytes == [8 << 3 | 2, 2, b'/', b'x']));
        assert_eq!(root_of(Some(sent)), ROOT);
    }

    #[test]
    fn what_the_client_says_holds() {
        let own = Options { root: "/run/own".into(), ..Options::default() };
        let own = runc(&own);
        assert_eq!(filled(Some(own.clone()), "/bin/containerd-shim-runc-v2"), Some(own));
        let other = Any { type_url: "runtimeoptions.v1.Options".into(), value: vec![10, 1, b'a'] };
        assert_eq!(filled(Some(other.clone()), "/bin/containerd-shim-runc-v2"), Some(other));
        let broken = Any { type_url: TYPE.into(), value: vec![0xff] };
        assert_eq!(filled(Some(broken.clone()), "/bin/containerd-shim-runc-v2"), Some(broken));
        assert_eq!(filled(None, "io.containerd.runsc.v1"), None);
    }

    #[test]
    fn the_bundle_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle { path: directory.path().join("b"), work: directory.path().join("w") };
        bundle.create(None).unwrap();
        keep(None, &bundle).unwrap();
        assert_eq!(bundle.read(COPY), None);
        keep(filled(None, "/bin/containerd-shim-runc-v2").as_ref(), &bundle).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&bundle.read(COPY).unwrap()).unwrap();
        assert_eq!(kept["root"], ROOT);
    }
}
