//! An image made from busybox, so that no test needs a network.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// The name under which [`write_archive`]'s image is imported.
pub const NAME: &str = "registry.test/davit/busybox:1";

/// Applets that get a link in `/bin`.
const APPLETS: &[&str] = &[
    "cat", "chmod", "dd", "df", "echo", "env", "false", "find", "grep", "head", "hostname", "id",
    "kill", "ls", "mkdir", "mount", "ps", "pwd", "readlink", "rm", "seq", "sh", "sleep", "stat",
    "stty", "tail", "test", "top", "touch", "trap", "true", "tty", "uname", "wc", "yes",
];

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The head of an archive's entry, owned by root.
///
/// # Panics
/// When `path` is too long for it.
pub fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).expect("names here are short");
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

/// The one layer, uncompressed.
fn layer() -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    append_busybox(&mut archive)?;
    archive.into_inner()
}

/// Appends busybox, its applets as links, the directories and files that a
/// container expects.
///
/// # Errors
/// Those of reading busybox and of writing the archive.
pub fn append_busybox(archive: &mut tar::Builder<impl Write>) -> io::Result<()> {
    for directory in ["bin/", "dev/", "etc/", "proc/", "root/", "sys/", "tmp/", "var/"] {
        let mode = if directory == "tmp/" { 0o1777 } else { 0o755 };
        archive.append(&header(directory, tar::EntryType::Directory, mode, 0), io::empty())?;
    }
    let bytes = fs::read("/bin/busybox")?;
    let entry = header("bin/busybox", tar::EntryType::Regular, 0o755, bytes.len() as u64);
    archive.append(&entry, &bytes[..])?;
    for applet in APPLETS {
        let mut link = header(&format!("bin/{applet}"), tar::EntryType::Link, 0o755, 0);
        link.set_link_name("bin/busybox")?;
        link.set_cksum();
        archive.append(&link, io::empty())?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n";
    let group = "root:x:0:\nnogroup:x:65534:\n";
    for (name, text) in [("etc/passwd", passwd), ("etc/group", group)] {
        let entry = header(name, tar::EntryType::Regular, 0o644, text.len() as u64);
        archive.append(&entry, text.as_bytes())?;
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Writes an OCI image layout, as one tar archive, that also carries
/// `docker save`'s `manifest.json`; `ctr image import` and `docker load` both
/// take it. The image runs `/bin/sh`.
pub fn write_archive(path: &Path) -> io::Result<()> {
    let layer = layer()?;
    let compressed = gzip(&layer)?;
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2023-11-14T22:13:20Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "busybox"}],
    }))?;
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{}", hex(&config)), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{}", hex(&compressed)), "size": compressed.len(),
        }],
    }))?;
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", hex(&manifest)), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"},
            "platform": {"os": "linux", "architecture": "amd64"},
        }],
    }))?;
    let docker = serde_json::to_vec(&serde_json::json!([{
        "Config": format!("blobs/sha256/{}", hex(&config)),
        "RepoTags": [NAME],
        "Layers": [format!("blobs/sha256/{}", hex(&compressed))],
    }]))?;

    let mut archive = tar::Builder::new(File::create(path)?);
    let mut append = |name: &str, bytes: &[u8]| {
        let entry = header(name, tar::EntryType::Regular, 0o644, bytes.len() as u64);
        archive.append(&entry, bytes)
    };
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for blob in [&config, &manifest, &compressed] {
        append(&format!("blobs/sha256/{}", hex(blob)), blob)?;
    }
    append("index.json", &index)?;
    append("manifest.json", &docker)?;
    archive.finish()
}

/// Unpacks the image's root filesystem into a directory, for those who want
/// no image at all.
pub fn write_rootfs(directory: &Path) -> io::Result<()> {
    tar::Archive::new(&layer()?[..]).unpack(directory)
}
