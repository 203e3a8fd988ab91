//! An image's configuration and its `/etc/passwd` and `/etc/group`: a
//! specification is made of them.

use std::fs;

use davit_client::spec::Wish;
use davit_client::user;
use oci_spec::image::ImageConfiguration;

use super::list;

/// A configuration makes a specification with something to run, or none.
pub fn config(data: &[u8]) {
    let Ok(image) = serde_json::from_slice::<ImageConfiguration>(data) else { return };
    if let Ok(spec) = Wish::default().spec(&image) {
        let args = spec["process"]["args"].as_array().expect("a list of words");
        assert!(!args.is_empty());
        assert_eq!(spec["root"]["path"], "rootfs");
    }
}

/// Whole, and with parts missing.
pub fn config_seeds() -> Vec<Vec<u8>> {
    list([
        br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"],"Entrypoint":["/e"],"WorkingDir":"/w","User":"nobody","Labels":{"a":"b"},"StopSignal":"SIGINT","ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:00"]},"history":[{"created_by":"x","empty_layer":true}]}"#,
        br#"{"architecture":"arm64","os":"linux","config":null,"rootfs":{"type":"layers","diff_ids":[]}}"#,
        b"{}",
    ])
}

/// The first line is who is wanted, the rest both of the files. Numbers are
/// those that a user can have.
pub fn users(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (user, file) = text.split_once('\n').unwrap_or((&text, ""));
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let root = root.expect("a directory can be made");
    fs::create_dir(root.path().join("etc")).expect("a new directory is empty");
    for name in ["etc/passwd", "etc/group"] {
        fs::write(root.path().join(name), file).expect("the directory is writable");
    }
    if let Ok(found) = user::find(user, &[root.path().to_owned()]) {
        let numbers = [found.uid, found.gid].into_iter().chain(found.groups);
        assert!(numbers.into_iter().all(|number| i32::try_from(number).is_ok()));
    }
}

/// Names and numbers, with files that know them and files that do not.
pub fn user_seeds() -> Vec<Vec<u8>> {
    list([
        b"nobody\nroot:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        b"0:wheel\nroot:x:0:0\nwheel:x:10:root,nobody\n",
        b"1000\nuser:x:1000:100::/:\nusers:x:100:user\n",
        b"4294967296:1\n:::\n::\n:\n",
        b"a:b\na:x:99999999999:-1\nb:x\n",
    ])
}
