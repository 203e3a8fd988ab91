//! Who we are to a registry: what `--user` says, or docker's `config.json`.

use std::cell::RefCell;
use std::io::{self, BufRead, IsTerminal, Write};

use davit_client::transfer::types;
use davit_distribution::credentials::{Anonymous, Credentials, Docker, Login, Static};
use davit_types::{ErrorKind, Kind, Reference};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::Error;
use crate::args::Remote;

/// The longest password, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// Answers the daemon when a registry wants to know who asks.
pub struct Logins {
    credentials: Box<dyn Credentials>,
    /// Why there was no login, for the error that follows.
    trouble: RefCell<Option<String>>,
}

impl Logins {
    /// What the command line and docker's configuration say.
    ///
    /// # Errors
    /// When a password is to be asked for and cannot be.
    pub fn of(reference: &Reference, remote: &Remote) -> Result<Self, Error> {
        let credentials: Box<dyn Credentials> = match &remote.user {
            Some(user) => {
                let text = match user.split_once(':') {
                    _ if remote.password_stdin => format!("{user}:{}", from_stdin()?),
                    Some(_) => user.clone(),
                    None => format!("{user}:{}", ask(user, reference.domain())?),
                };
                match Login::of_user(&text) {
                    Some(login) => Box::new(Static::new(reference.domain(), login)),
                    None => Box::new(Anonymous),
                }
            }
            None => match Docker::of_user() {
                Some(docker) => Box::new(docker),
                None => Box::new(Anonymous),
            },
        };
        Ok(Self { credentials, trouble: RefCell::default() })
    }

    /// Answers one question. Nobody, where there is trouble; the registry's
    /// refusal then comes with it.
    pub async fn answer(&self, request: types::AuthRequest) -> types::AuthResponse {
        let login = self.credentials.login(&request.host, &request.wwwauthenticate).await;
        let login = login.unwrap_or_else(|error| {
            self.trouble.replace(Some(error.full_message()));
            None
        });
        let answer = |kind: types::AuthType, username: String, secret: String| {
            types::AuthResponse { auth_type: kind.into(), username, secret, expire_at: None }
        };
        match login {
            // What containerd's own clients say then.
            None => answer(types::AuthType::Refresh, String::new(), String::new()),
            Some(Login::Basic { username, password }) => {
                answer(types::AuthType::Credentials, username, password)
            }
            Some(Login::Refresh(token)) => answer(types::AuthType::Refresh, String::new(), token),
            Some(Login::Bearer(token)) => {
                answer(types::AuthType::Header, String::new(), format!("Bearer {token}"))
            }
            Some(Login::Header(value)) => answer(types::AuthType::Header, String::new(), value),
        }
    }

    /// Says with a refusal why there was no login.
    pub fn explain(&self, error: Error) -> Error {
        let refused = matches!(
            error.kind(),
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied | ErrorKind::Unknown
        );
        match self.trouble.take().filter(|_| refused) {
            Some(trouble) => Error::usage(format!("{}\n({trouble})", error.message())),
            None => error,
        }
    }
}

fn from_stdin() -> Result<String, Error> {
    use io::Read;
    let mut text = String::new();
    let read = io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text);
    read.map_err(Error::io("a password on standard input"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Shows the echo again when it is dropped.
struct Silent(rustix::termios::Termios);

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that is gone needs none.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Asks for a password on the terminal.
fn ask(user: &str, domain: &str) -> Result<String, Error> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let hint = "give --password-stdin, or --user NAME:PASSWORD";
        return Err(Error::usage(format!("there is no terminal to ask for a password on; {hint}")));
    }
    let failed = || Error::io("a password on the terminal");
    let usual = tcgetattr(&stdin).map_err(io::Error::from).map_err(failed())?;
    let mut quiet = usual.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    eprint!("Password of {user} at {domain}: ");
    let _ = io::stderr().flush();
    let silent = Silent(usual);
    tcsetattr(&stdin, OptionalActions::Now, &quiet).map_err(io::Error::from).map_err(failed())?;
    let mut line = String::new();
    let read = io::Read::take(stdin.lock(), PASSWORD_MAX).read_line(&mut line);
    drop(silent);
    eprintln!();
    read.map_err(failed())?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
