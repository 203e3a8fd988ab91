//! A small OCI image in an archive: busybox, statically linked, and nothing
//! else.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The name that it gets.
pub const NAME: &str = "test.invalid/busybox:latest";

const APPLETS: [&str; 6] = ["sh", "echo", "true", "sleep", "cat", "id"];

/// Writes the archive.
pub fn write(path: &Path) {
    let layer = layer();
    let diff_id = digest(&layer);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
    .to_string()
    .into_bytes();
    let blob = |kind: &str, bytes: &[u8]| -> Value {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", &config),
        "layers": [blob("layer.v1.tar", &layer)],
    })
    .to_string()
    .into_bytes();
    let mut target = blob("manifest.v1+json", &manifest);
    target["annotations"] = json!({"io.containerd.image.name": NAME});
    let index = json!({"schemaVersion": 2, "manifests": [target]}).to_string().into_bytes();
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    add(&mut archive, "index.json", &index, 0o644);
    for bytes in [layer, config, manifest] {
        let name = format!("blobs/{}", digest(&bytes).replace(':', "/"));
        add(&mut archive, &name, &bytes, 0o644);
    }
    archive.finish().unwrap();
}

fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for name in ["bin/", "proc/", "sys/", "dev/", "tmp/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    add(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox").unwrap(), 0o755);
    for name in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    layer.into_inner().unwrap()
}

fn add<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes).unwrap();
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
