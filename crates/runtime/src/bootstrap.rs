//! How a shim is reached: what its `start` answers, and the file that keeps
//! it.

use std::fmt;

use std::path::PathBuf;

use davit_protocols::ttrpc::bootstrap::BootstrapResult;
use protobuf::Message as _;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bundle::Bundle;
use crate::dial::Place;

/// Where containerd 1.7 and later keep the answer.
const FILE: &str = "bootstrap.json";
/// Where older shims keep their address.
const ADDRESS_FILE: &str = "address";
/// The newest version of the task API that we speak.
const NEWEST: i32 = 3;

/// The protocol that a shim speaks. Prints in capitals, as containerd has it
/// in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// What nearly all speak.
    Ttrpc,
    /// The same services, for shims in languages that lack the other.
    Grpc,
}

impl Protocol {
    /// How a shim names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttrpc => "ttrpc",
            Self::Grpc => "grpc",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_ascii_uppercase())
    }
}

/// How a shim is reached. Serialised as containerd's `BootstrapParams`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// The version of its task API: 2 or 3.
    pub version: i32,
    /// `unix:///path`, `hvsock:///path:port`, or something bare: the name of
    /// an abstract socket with ttrpc, a path with gRPC, as for containerd.
    pub address: String,
    /// `ttrpc` or `grpc`.
    pub protocol: String,
}

impl Endpoint {
    /// Reads what a shim's `start` wrote to its stdout, in any of the three
    /// forms in use: `BootstrapResult` as protobuf (containerd 2.3), JSON
    /// (1.7), the bare address (1.6).
    pub fn parse(answer: &[u8]) -> Result<Self, Error> {
        let endpoint = Self::from_json(answer.trim_ascii())
            .or_else(|| Self::from_protobuf(answer))
            .or_else(|| Self::from_address(answer.trim_ascii()))
            .ok_or_else(|| Error::Binary(format!("no shim address in {}", shown(answer))))?;
        endpoint.check()
    }

    fn from_json(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(answer).ok().filter(|endpoint| endpoint.version >= 2)
    }

    fn from_protobuf(answer: &[u8]) -> Option<Self> {
        let result = BootstrapResult::parse_from_bytes(answer).ok()?;
        let known = result.version >= 2 && !result.address.is_empty();
        known.then_some(Self {
            version: result.version,
            address: result.address,
            protocol: result.protocol,
        })
    }

    fn from_address(answer: &[u8]) -> Option<Self> {
        let address = std::str::from_utf8(answer).ok()?;
        let plain = address.chars().all(|c| c.is_ascii_graphic()) && address.contains('/');
        plain.then(|| Self { version: 2, address: address.into(), protocol: "ttrpc".into() })
    }

    fn check(self) -> Result<Self, Error> {
        if self.version > NEWEST {
            return Err(Error::Shim {
                kind: davit_types::ErrorKind::Unimplemented,
                message: format!("unsupported shim version ({}): not implemented", self.version),
            });
        }
        self.protocol()?;
        self.place()?;
        Ok(self)
    }

    /// The protocol, by its name.
    pub fn protocol(&self) -> Result<Protocol, Error> {
        [Protocol::Ttrpc, Protocol::Grpc]
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(&self.protocol))
            .ok_or_else(|| Error::Binary(format!("unexpected protocol: {:?}", self.protocol)))
    }

    /// Where to connect to.
    pub fn place(&self) -> Result<Place, Error> {
        Place::parse(&self.address, self.protocol()? == Protocol::Grpc)
    }

    /// Whether somebody takes connections there.
    pub async fn answers(&self) -> bool {
        match self.place() {
            Ok(place) => place.dial().await.is_ok(),
            Err(_) => false,
        }
    }

    /// Removes the socket of a shim that has died and could not do so itself.
    /// One that somebody listens at is left alone.
    pub fn remove_dead_socket(&self) {
        if let Ok(place) = self.place() {
            place.remove_dead();
        }
    }

    /// The endpoint of a sandbox, given as `<protocol>+<address>`.
    pub fn of_sandbox(address: &str, version: u32) -> Result<Self, Error> {
        let (protocol, address) = address.split_once('+').ok_or_else(|| {
            Error::Binary(
                "the scheme of sandbox address should be in  the form of \
                 <protocol>+<unix|vsock|tcp>, i.e. ttrpc+unix or grpc+vsock"
                    .into(),
            )
        })?;
        let version = i32::try_from(version).unwrap_or(i32::MAX);
        Self { version, address: address.into(), protocol: protocol.into() }.check()
    }

    /// Keeps the endpoint in the bundle.
    pub fn save(&self, bundle: &Bundle) -> Result<(), Error> {
        let json = serde_json::to_vec(self).expect("three plain fields serialise");
        bundle.write(FILE, &json)
    }

    /// Reads the endpoint that a bundle keeps; `None` where there is none,
    /// because the shim has never answered. That a file cannot be read is an
    /// error, and not the same.
    pub fn load(bundle: &Bundle) -> Result<Option<Self>, Error> {
        let kept = match bundle.look(FILE)? {
            None => bundle.look(ADDRESS_FILE)?,
            kept => kept,
        };
        kept.map(|text| Self::parse(text.as_bytes())).transpose()
    }
}

/// Where the shim listens that has answered its `start` so: a path, which
/// begins with a zero byte for the name of an abstract socket.
///
/// # Errors
/// What is none of the forms in use, a version or protocol that is unknown, or
/// a path that is none or too long.
pub fn shim_socket(answer: &[u8]) -> Result<PathBuf, Error> {
    Ok(Endpoint::parse(answer)?.place()?.into_path())
}

/// What a program said, for an error message: printable and of a bearable
/// length.
fn shown(answer: &[u8]) -> String {
    const SHOWN: usize = 512;
    let text = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]);
    let more = if answer.len() > SHOWN { "…" } else { "" };
    format!("{:?}{more}", text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(version: i32) -> Endpoint {
        Endpoint {
            version,
            address: "unix:///run/containerd/s/0a".into(),
            protocol: "ttrpc".into(),
        }
    }

    #[test]
    fn all_three_answers_are_read() {
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/containerd/s/0a".into(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        let json = br#"{"version":3,"address":"unix:///run/containerd/s/0a","protocol":"ttrpc"}"#;
        assert_eq!(Endpoint::parse(&result.write_to_bytes().unwrap()).unwrap(), endpoint(3));
        assert_eq!(Endpoint::parse(json).unwrap(), endpoint(3));
        assert_eq!(Endpoint::parse(b"unix:///run/containerd/s/0a\n").unwrap(), endpoint(2));
    }

    #[test]
    fn garbage_is_named() {
        for answer in
            [&b""[..], b"hello", b"panic: it did not work", b"{}", &[0xff; 2000], b"a/\0b"]
        {
            let error = Endpoint::parse(answer).unwrap_err().to_string();
            assert!(error.starts_with("no shim address in \""), "{error}");
            assert!(error.len() < 2000);
        }
        let error = Endpoint::parse(b"vsock://3:1024").unwrap_err().to_string();
        assert_eq!(error, "unsupported address: \"vsock://3:1024\"");
        let long = format!("unix:///{}", "x".repeat(200));
        assert!(Endpoint::parse(long.as_bytes()).is_err());
        let newer = br#"{"version":4,"address":"unix:///a","protocol":"ttrpc"}"#;
        assert_eq!(
            Endpoint::parse(newer).unwrap_err().to_string(),
            "unsupported shim version (4): not implemented"
        );
        let other = br#"{"version":2,"address":"unix:///a","protocol":"http"}"#;
        let error = Endpoint::parse(other).unwrap_err().to_string();
        assert_eq!(error, "unexpected protocol: \"http\"");
    }

    #[test]
    fn a_bundle_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle { path: directory.path().join("b"), work: directory.path().join("w") };
        bundle.create(None).unwrap();
        assert_eq!(Endpoint::load(&bundle).unwrap(), None);
        bundle.write("address", b"unix:///run/containerd/s/0a").unwrap();
        assert_eq!(Endpoint::load(&bundle).unwrap(), Some(endpoint(2)));
        endpoint(3).save(&bundle).unwrap();
        assert_eq!(Endpoint::load(&bundle).unwrap(), Some(endpoint(3)));
        let kept: serde_json::Value =
            serde_json::from_str(&bundle.read("bootstrap.json").unwrap()).unwrap();
        assert_eq!(kept["version"], 3);
    }

    #[test]
    fn a_sandboxes_address_has_a_protocol() {
        let found = Endpoint::of_sandbox("ttrpc+unix:///run/containerd/s/0a", 3).unwrap();
        assert_eq!(found, endpoint(3));
        Endpoint::of_sandbox("unix:///run/containerd/s/0a", 3).unwrap_err();
    }
}
