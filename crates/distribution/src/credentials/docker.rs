//! What docker knows: `config.json` and the helpers that it names (docker's
//! `cli/config`).

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use super::{Credentials, Error, HUB, Login, Pending, file, helper};

/// The key that docker keeps the hub's login under.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The name of the file in docker's directory.
const FILE: &str = "config.json";

/// Docker's logins. The file is read anew for every question, so that a
/// `docker login` counts at once.
#[derive(Clone, Debug)]
pub struct Docker {
    file: PathBuf,
    /// Searched for helpers in place of `PATH`.
    path: Option<OsString>,
}

impl Docker {
    /// The logins in `file`, which need not exist.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), path: None }
    }

    /// Those of whoever runs this: in `$DOCKER_CONFIG`, or in `.docker` at
    /// home. `None` for who has no home.
    pub fn of_user() -> Option<Self> {
        Self::of_variables(env::var_os("DOCKER_CONFIG"), env::var_os("HOME"))
    }

    pub(super) fn of_variables(config: Option<OsString>, home: Option<OsString>) -> Option<Self> {
        let set = |value: Option<OsString>| value.filter(|value| !value.is_empty());
        let directory = match set(config) {
            Some(config) => PathBuf::from(config),
            None => PathBuf::from(set(home)?).join(".docker"),
        };
        Some(Self::new(directory.join(FILE)))
    }

    /// The same, with helpers looked for in the directories of `path`, which
    /// is as the variable `PATH`.
    pub fn with_path(self, path: impl Into<OsString>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// The file.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    async fn ask(&self, host: &str) -> Result<Option<Login>, Error> {
        let path = self.file.clone();
        let read = tokio::task::spawn_blocking(move || file::read(&path)).await;
        let read = read
            .map_err(|error| Error::Failed { host: host.to_owned(), reason: error.to_string() })?;
        let Some(config) = read? else { return Ok(None) };
        let keys = keys(host);
        if let Some(name) = config.helper(&keys) {
            if !helper::is_name(name) {
                let (path, name) = (self.file.clone(), name.to_owned());
                return Err(Error::Helper { path, name });
            }
            let login = helper::ask(name, self.path.as_deref(), &keys[0], host).await?;
            if login.is_some() {
                return Ok(login);
            }
        }
        config.login(&keys)
    }
}

impl Credentials for Docker {
    fn login<'a>(&'a self, host: &'a str, _challenges: &'a [String]) -> Pending<'a> {
        Box::pin(self.ask(host))
    }
}

/// The names that docker may know `host` by, the usual one first.
fn keys(host: &str) -> Vec<String> {
    if HUB.contains(&host) {
        return [HUB_KEY].into_iter().chain(HUB).map(str::to_owned).collect();
    }
    let bare = host.strip_suffix(":443");
    let other = match bare {
        Some(bare) => Some(bare.to_owned()),
        None if host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']')) => None,
        None => Some(format!("{host}:443")),
    };
    [host.to_owned()].into_iter().chain(other).collect()
}
