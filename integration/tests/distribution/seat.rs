//! `davit` on a daemon of its own, with docker's configuration.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use davit_integration::layout::CHECK;
use davit_integration::registry::docker_config;
use davit_integration::{Daemon, Server, describe, must};

pub struct Seat {
    pub daemon: Daemon,
    docker: PathBuf,
}

impl Seat {
    pub fn new() -> Self {
        Self::on(Daemon::start(Server::Davit))
    }

    pub fn on(daemon: Daemon) -> Self {
        let docker = daemon.path("docker");
        fs::create_dir(&docker).expect("the directory is writable");
        Self { daemon, docker }
    }

    /// Docker's login for a registry.
    pub fn log_in(&self, host: &str) {
        fs::write(self.docker.join("config.json"), docker_config(host))
            .expect("the directory is writable");
    }

    pub fn davit(&self, words: &[&str]) -> Command {
        let mut command = self.daemon.davit(words);
        command.env("DOCKER_CONFIG", &self.docker);
        command
    }

    pub fn ok(&self, words: &[&str]) -> String {
        must(&mut self.davit(words))
    }

    pub fn fails(&self, words: &[&str], text: &str) {
        let mut command = self.davit(words);
        let output = command.output().expect("davit can be started");
        let told = describe(&command, &output);
        assert_eq!(output.status.code(), Some(125), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{text:?}\n{told}");
    }

    pub fn runs_whole(&self, name: &str) {
        let words = [&["run", "--rm", name], CHECK].concat();
        assert_eq!(self.ok(&words), "whole\n");
    }
}
