//! Runs a command in a container made of nothing but a statically linked
//! busybox, with this crate alone. As root:
//!
//! ```sh
//! cargo run -p runc-client --example run -- crun sh -c 'echo hello from $(hostname)'
//! ```

use std::error::Error;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;

use runc_client::{CreateOptions, RunOptions, Runc, Stdio};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let runtime = args.next().ok_or("usage: run RUNTIME COMMAND [ARGUMENT...]")?;
    let command: Vec<String> = args.collect();

    let bundle = tempfile::tempdir()?;
    make_bundle(bundle.path(), &command)?;
    let runc = Runc::new(runtime).root(bundle.path().join("state"));
    eprintln!("{}", runc.version().await?.text.trim());

    let id = format!("example-{}", std::process::id());
    let create = CreateOptions { stdio: Stdio::inherit(), ..Default::default() };
    let code = runc.run(&id, bundle.path(), RunOptions { create, detach: false }).await?;
    Ok(ExitCode::from(u8::try_from(code)?))
}

fn make_bundle(bundle: &Path, command: &[String]) -> std::io::Result<()> {
    let bin = bundle.join("rootfs/bin");
    for dir in ["bin", "proc", "dev"] {
        std::fs::create_dir_all(bundle.join("rootfs").join(dir))?;
    }
    std::fs::copy("/bin/busybox", bin.join("busybox"))?;
    for applet in ["sh", "echo", "ls", "hostname", "ps", "sleep"] {
        symlink("busybox", bin.join(applet))?;
    }
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"args": command, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "example",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
        ]},
    });
    std::fs::write(bundle.join("config.json"), config.to_string())
}
