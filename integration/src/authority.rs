//! A certificate authority of a test's own, made by `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::must;

/// A directory with the authority's certificate (`ca.pem`), a server's for
/// `localhost` and 127.0.0.1 (`server.pem`, `server.key`) and a client's
/// (`client.pem`, `client.key`).
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes them all in `directory`, which must not exist.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir(directory).expect("the directory is new");
        let authority = Self { directory: directory.to_owned() };
        authority.sign("ca", "davit test authority", &["basicConstraints=critical,CA:TRUE"]);
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
        authority.sign("server", "localhost", &[names, "extendedKeyUsage=serverAuth"]);
        authority.sign("client", "davit", &["extendedKeyUsage=clientAuth"]);
        authority
    }

    /// The path of one of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn sign(&self, name: &str, subject: &str, extensions: &[&str]) {
        let mut command = openssl_request(&self.directory, name, subject);
        if name == "ca" {
            command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        } else {
            command.arg("-CA").arg(self.file("ca.pem")).arg("-CAkey").arg(self.file("ca.key"));
            command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        for extension in extensions {
            command.args(["-addext", extension]);
        }
        must(&mut command);
    }
}

/// `openssl` making a certificate (`NAME.pem`) and its key (`NAME.key`).
pub fn openssl_request(directory: &Path, name: &str, subject: &str) -> Command {
    let mut command = Command::new("/usr/bin/openssl");
    command
        // The defaults of the distribution's file add extensions of their own.
        .env("OPENSSL_CONF", "/dev/null")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", &format!("/CN={subject}")])
        .arg("-keyout")
        .arg(directory.join(format!("{name}.key")))
        .arg("-out")
        .arg(directory.join(format!("{name}.pem")));
    command
}
