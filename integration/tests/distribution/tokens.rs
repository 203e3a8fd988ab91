//! Bearer tokens that the registry refuses in the middle of a pull or a push.

use davit_integration::fault_proxy::{Asked, Fault, FaultProxy, Seen};
use davit_integration::layout::{self, Layout};
use davit_integration::registry::{Auth, Registry, Transport};

use crate::seat::Seat;

/// After how many seconds the registry refuses a token; its owner is told that
/// it is good for five minutes.
const VALIDITY: u64 = 3;

/// A registry that wants tokens, behind what makes it slow.
struct Place {
    registry: Registry,
    proxy: FaultProxy,
}

impl Place {
    fn new() -> Self {
        let registry = Registry::with(Transport::Plain, Auth::Token);
        let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
        Self { registry, proxy }
    }

    fn tokens(&self) -> &davit_integration::tokens::TokenServer {
        self.registry.tokens.as_ref().expect("it has a token server")
    }

    /// The next request that `which` means is held up until the token that it
    /// brings along is good no more.
    fn hold_up(&self, which: impl Fn(&Asked) -> bool + Send + 'static) {
        self.tokens().set_validity(VALIDITY);
        let expired = self.tokens().expiry();
        let mut held = false;
        self.proxy.rule(move |asked| {
            if !held && asked.authorization.is_some() && which(asked) {
                held = true;
                expired();
            }
            Fault::None
        });
    }

    /// What was refused although it came with a token.
    fn refused(&self) -> Vec<Seen> {
        let seen = self.proxy.seen().into_iter();
        seen.filter(|seen| seen.status == 401 && seen.asked.authorization.is_some()).collect()
    }
}

#[test]
fn a_pull_goes_on_with_a_new_token() {
    let (seat, place) = (Seat::new(), Place::new());
    let layout = Layout::of(&layout::SMALL);
    layout.push(&place.registry, "private/image:1");
    let name = format!("{}/private/image:1", place.proxy.host());
    seat.log_in(&place.proxy.host());
    let layers = layout.layers("amd64");
    let last = layers.last().expect("it has layers").clone();
    place.hold_up(move |asked| asked.target.contains(&last));
    let before = place.tokens().seen().len();
    seat.ok(&["pull", "--plain-http", &name]);
    seat.runs_whole(&name);
    let refused = place.refused();
    assert!(refused.iter().any(|seen| seen.asked.is_blob()), "{refused:#?}");
    assert!(place.tokens().seen().len() - before >= 2);
    for layer in layers {
        let whole = |seen: &&Seen| seen.asked.target.contains(&layer) && seen.status == 200;
        assert_eq!(place.proxy.blobs().iter().filter(whole).count(), 1, "{layer} came twice");
    }
}

#[test]
fn a_layer_that_breaks_after_its_token_is_gone_on_with() {
    let (seat, place) = (Seat::new(), Place::new());
    let layout = Layout::of(&layout::SMALL);
    layout.push(&place.registry, "private/image:1");
    let name = format!("{}/private/image:1", place.proxy.host());
    seat.log_in(&place.proxy.host());
    place.tokens().set_validity(VALIDITY);
    let layers = layout.layers("amd64");
    let last = layers.last().expect("it has layers").clone();
    let expired = place.tokens().expiry();
    let mut held = false;
    place.proxy.rule(move |asked| match asked.target.contains(&last) && asked.is_blob() {
        true if asked.range.is_none() => Fault::ResetAfter(200_000),
        true if !held => {
            held = true;
            expired();
            Fault::None
        }
        _ => Fault::None,
    });
    seat.ok(&["pull", "--plain-http", &name]);
    seat.runs_whole(&name);
    let refused = place.refused();
    let resumed = |seen: &Seen| seen.asked.range.is_some();
    assert!(refused.iter().any(resumed), "no token expired in the middle: {refused:#?}");
    let last = layers.last().expect("it has layers");
    let of_last = |seen: &&Seen| seen.asked.target.contains(last.as_str());
    let carried: u64 = place.proxy.blobs().iter().filter(of_last).map(|seen| seen.carried).sum();
    let size = std::fs::metadata(layout.file(last)).expect("it was made").len();
    assert!(carried < size + 150_000, "{carried} bytes of {size} were sent");
}

#[test]
fn a_push_goes_on_with_a_new_token() {
    let (seat, place) = (Seat::new(), Place::new());
    let layout = Layout::of(&layout::SMALL);
    let plain = Registry::start();
    let name = layout.push(&plain, "some/image:1");
    seat.ok(&["pull", &name]);
    seat.log_in(&place.proxy.host());
    for (number, method) in ["PUT", "PATCH", "POST", "HEAD"].into_iter().enumerate() {
        let about = move |asked: &Asked| match method {
            "PUT" => asked.method == "PUT" && asked.target.contains("/manifests/"),
            "POST" => asked.method == "POST",
            "HEAD" => asked.method == "HEAD",
            _ => asked.method != "GET" && asked.target.contains("/blobs/uploads/"),
        };
        place.hold_up(about);
        place.proxy.forget();
        let path = format!("private/copy{number}:1");
        let to = format!("{}/{path}", place.proxy.host());
        seat.ok(&["push", "--plain-http", &name, &to]);
        let refused = place.refused();
        assert!(refused.iter().any(|seen| about(&seen.asked)), "{method}: {refused:#?}");
        place.proxy.rule(|_| Fault::None);
        assert_eq!(place.registry.digest(&path), layout.digest(), "{method}");
    }
}
