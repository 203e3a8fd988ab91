//! A registry of a few lines, in this process: serves what it was given,
//! takes what is pushed, and misbehaves when told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What a registry has and does.
#[derive(Default)]
pub struct State {
    /// Blobs and documents by digest, with their media types.
    pub blobs: HashMap<String, (String, Vec<u8>)>,
    /// Digests by tag.
    pub tags: HashMap<String, String>,
    /// `METHOD PATH [RANGE]`, as they came.
    pub requests: Vec<String>,
    /// The `Authorization` header that is wanted.
    pub authorization: Option<String>,
    /// Blobs larger than this stop in their middle until it is raised.
    pub flow: Option<usize>,
    /// Layers that are being sent, and how many were at a time at most.
    pub sending: (usize, usize),
}

/// The registry. Serves as long as the process lives.
pub struct Registry {
    pub address: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
        result
    }

    pub fn requests(&self, part: &str) -> Vec<String> {
        self.with(|state| {
            let all = state.requests.iter();
            all.filter(|request| request.contains(part)).cloned().collect()
        })
    }

    fn put(&self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let entry = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.with(|state| state.blobs.insert(digest, (media_type.to_owned(), bytes)));
        entry
    }

    /// Puts an image of these layers under `tag`, whose configuration says
    /// `diff_ids`, the layers' own when there are none.
    pub fn image(&self, tag: &str, layers: &[Vec<u8>], diff_ids: Option<Vec<String>>) {
        self.image_of(tag, layers, diff_ids, LAYER);
    }

    /// The same, with layers of this media type.
    pub fn image_of(
        &self,
        tag: &str,
        layers: &[Vec<u8>],
        diff_ids: Option<Vec<String>>,
        kind: &str,
    ) {
        let diff_ids = diff_ids.unwrap_or_else(|| layers.iter().map(|l| digest(l)).collect());
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.put(CONFIG, config.to_string().into_bytes());
        let layers: Vec<Value> = layers.iter().map(|layer| self.put(kind, layer.clone())).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let manifest = self.put(MANIFEST, manifest.to_string().into_bytes());
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        self.with(|state| state.tags.insert(tag.to_owned(), digest));
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

fn serve(stream: TcpStream, state: &(Mutex<State>, Condvar)) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let request = read(&mut reader)?;
        let range = request.headers.get("range").cloned().unwrap_or_default();
        let note = format!("{} {} {range}", request.method, request.path);
        let (status, headers, body) = {
            let mut state = state.0.lock().unwrap();
            state.requests.push(note.trim().to_owned());
            answer(&mut state, &request)
        };
        let length = body.len();
        let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
        headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
        writer.write_all(format!("{text}\r\n").as_bytes()).ok()?;
        if request.method == "HEAD" {
            continue;
        }
        let is_blob = request.path.contains("/blobs/");
        let is_layer = is_blob && !headers.contains(&("Content-Type", CONFIG.to_owned()));
        let last = length.saturating_sub(1);
        let first = {
            let state = state.0.lock().unwrap();
            state.flow.filter(|_| is_blob).unwrap_or(last).min(last)
        };
        let count = |more: bool| {
            let mut state = state.0.lock().unwrap();
            let (now, most) = &mut state.sending;
            *now = if more { *now + 1 } else { *now - 1 };
            *most = (*most).max(*now);
        };
        if is_layer {
            count(true);
        }
        let sent = writer.write_all(&body[..first]).and_then(|()| {
            let guard = state.0.lock().unwrap();
            let held = |s: &mut State| is_blob && s.flow.is_some_and(|flow| flow < length);
            drop(state.1.wait_while(guard, held).unwrap());
            writer.write_all(&body[first..last])
        });
        if is_layer {
            count(false);
        }
        sent.ok()?;
        // Who has the last byte may have begun with the next blob.
        writer.write_all(&body[last..]).ok()?;
    }
}

type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn answer(state: &mut State, request: &Request) -> Answer {
    if let Some(wanted) = &state.authorization
        && request.headers.get("authorization") != Some(wanted)
    {
        let challenge = ("WWW-Authenticate", "Basic realm=\"test\"".to_owned());
        return ("401 Unauthorized", vec![challenge], Vec::new());
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    match request.method.as_str() {
        "POST" => {
            let location = ("Location", format!("{path}upload"));
            ("202 Accepted", vec![location], Vec::new())
        }
        "PUT" => {
            let digest = digest(&request.body);
            let kind = request.headers.get("content-type").cloned().unwrap_or_default();
            if path.contains("/manifests/") && !last.starts_with("sha256:") {
                state.tags.insert(last, digest.clone());
            }
            state.blobs.insert(digest.clone(), (kind, request.body.clone()));
            ("201 Created", vec![("Docker-Content-Digest", digest)], Vec::new())
        }
        _ => {
            let digest = state.tags.get(&last).cloned().unwrap_or(last);
            let Some((kind, bytes)) = state.blobs.get(&digest) else {
                return ("404 Not Found", Vec::new(), Vec::new());
            };
            let mut headers =
                vec![("Content-Type", kind.clone()), ("Docker-Content-Digest", digest.clone())];
            let from = request.headers.get("range").and_then(|range| {
                range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok()
            });
            match from {
                None => ("200 OK", headers, bytes.clone()),
                Some(from) => {
                    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                    headers.push(("Content-Range", range));
                    ("206 Partial Content", headers, bytes[from..].to_vec())
                }
            }
        }
    }
}
