//! Docker's `config.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Error, Login};

/// The longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// What we want to know of a file.
pub struct File {
    path: PathBuf,
    content: Content,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    auths: Option<BTreeMap<String, Option<Auth>>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Reads `path`; `None` where there is no such file or nothing in it.
pub fn read(path: &Path) -> Result<Option<File>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        let reason = format!("longer than {MAX_FILE} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // The parser's own words could quote a secret.
    let content = serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error::Wrong { path: path.to_owned(), line, column }
    })?;
    Ok(Some(File { path: path.to_owned(), content }))
}

impl File {
    /// The helper to be asked for a host that has these names.
    pub fn helper(&self, keys: &[String]) -> Option<&str> {
        let own = self.content.cred_helpers.as_ref();
        let own = own.and_then(|helpers| keys.iter().find_map(|key| helpers.get(key)));
        let helper = own.or(self.content.creds_store.as_ref()).map(String::as_str);
        helper.filter(|name| !name.is_empty())
    }

    /// The login for a host that has these names.
    pub fn login(&self, keys: &[String]) -> Result<Option<Login>, Error> {
        let Some(auths) = &self.content.auths else { return Ok(None) };
        let exact = keys.iter().find_map(|key| auths.get_key_value(key));
        let same = |(name, _): &(&String, _)| keys.iter().any(|key| key == hostname(name));
        let Some((name, Some(auth))) = exact.or_else(|| auths.iter().find(same)) else {
            return Ok(None);
        };
        let wrong = || Error::Auth { path: self.path.clone(), host: name.clone() };
        auth.login().ok_or_else(wrong)
    }
}

impl Auth {
    /// `None` when what is there is no login.
    fn login(&self) -> Option<Option<Login>> {
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        if let Some(token) = text(&self.registrytoken) {
            return Some(Some(Login::Bearer(token)));
        }
        if let Some(token) = text(&self.identitytoken) {
            return Some(Some(Login::Refresh(token)));
        }
        let (username, password) = match text(&self.auth) {
            Some(auth) => {
                let bytes = STANDARD.decode(auth.trim()).ok()?;
                let pair = String::from_utf8(bytes).ok()?;
                let (username, password) = pair.split_once(':')?;
                // Docker on Windows fills up with zeros.
                (username.to_owned(), password.trim_end_matches('\0').to_owned())
            }
            None => {
                (text(&self.username).unwrap_or_default(), text(&self.password).unwrap_or_default())
            }
        };
        Some(Login::of(&username, &password))
    }
}

/// The host in an address: `registry:5000` of `https://registry:5000/v1/`.
fn hostname(address: &str) -> &str {
    let bare = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    bare.unwrap_or(address).split('/').next().unwrap_or_default()
}
