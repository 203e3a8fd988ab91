//! Docker's `config.json`. The parser takes files, so one is written; helpers
//! are looked for where there are none.

use davit_distribution::credentials::{Credentials, Docker};

use super::{list, renew};

/// Hosts that are asked for.
const HOSTS: [&str; 4] = ["registry-1.docker.io", "r.test", "r.test:5000", "[::1]:5000"];

thread_local! {
    static DIRECTORY: tempfile::TempDir =
        tempfile::tempdir().expect("a temporary directory can be made");
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
}

/// Reads it, and asks for a few hosts.
pub fn run(data: &[u8]) {
    let directory = DIRECTORY.with(|directory| directory.path().to_owned());
    let file = directory.join("config.json");
    renew(&file, data);
    let docker = Docker::new(&file).with_path(directory);
    for host in HOSTS {
        let login = RUNTIME.with(|runtime| runtime.block_on(docker.login(host, &[])));
        // A login is printed without what is secret about it.
        let printed = format!("{login:?}");
        assert!(login.is_err() || printed.len() < 32, "{printed}");
    }
}

/// Each kind of login, and helpers.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        b"{\"auths\":{\"https://index.docker.io/v1/\":{\"auth\":\"dTpw\"},\"r.test\":{\"identitytoken\":\"t\"}}}",
        b"{\"auths\":{\"r.test:5000\":{\"username\":\"u\",\"password\":\"p\",\"registrytoken\":\"\"},\"x\":null}}",
        b"{\"credsStore\":\"desktop\",\"credHelpers\":{\"r.test\":\"\",\"[::1]:5000\":\"../x\"}}",
    ])
}
