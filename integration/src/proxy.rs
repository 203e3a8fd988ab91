//! A proxy between a daemon and registries: Debian's tinyproxy.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::wait_for;

/// Who may use a proxy that wants to know.
pub const USER: (&str, &str) = ("davit", "s3cr3t");

/// A running proxy, until it is dropped.
pub struct Proxy {
    process: Child,
    directory: TempDir,
    address: SocketAddr,
}

impl Proxy {
    /// Starts one, for [`USER`] alone or for everybody.
    pub fn start(is_private: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        // It has to be told a port; this one was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("there are ports");
        let user =
            if is_private { format!("BasicAuth {} {}\n", USER.0, USER.1) } else { "".into() };
        let config = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 60\nLogLevel Connect\nMaxClients 100\n{user}",
            address.port()
        );
        let path = directory.path().join("tinyproxy.conf");
        fs::write(&path, config).expect("the directory is writable");
        let log = File::create(directory.path().join("log")).expect("the directory is writable");
        let mut process = Command::new("/usr/bin/tinyproxy")
            .args(["-d", "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("tinyproxy is installed");
        wait_for("the proxy listens", 30, || {
            let exited = process.try_wait().ok().flatten();
            assert!(exited.is_none(), "the proxy ended: {exited:?}");
            TcpStream::connect(address).ok()
        });
        Self { process, directory, address }
    }

    /// Its address as a variable has it, with the password given.
    pub fn url(&self, password: Option<&str>) -> String {
        let user = password.map(|password| format!("{}:{password}@", USER.0)).unwrap_or_default();
        format!("http://{user}{}", self.address)
    }

    /// All requests that it has logged, each with its first line.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains("Request ("));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
