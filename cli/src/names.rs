//! Names for containers that nobody named, and names that were meant.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const QUALITIES: &[&str] = &[
    "able", "amber", "ample", "blue", "bold", "brave", "brief", "bright", "brisk", "calm", "clear",
    "clever", "cool", "crisp", "deep", "deft", "eager", "early", "easy", "fair", "fine", "firm",
    "fleet", "fond", "free", "fresh", "gentle", "glad", "golden", "grand", "green", "handy",
    "happy", "hardy", "honest", "jolly", "keen", "kind", "late", "light", "lively", "loyal",
    "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "patient", "plain", "proud",
    "quick", "quiet", "ready", "red", "round", "ruddy", "sharp", "silver", "smart", "snug",
    "sober", "solid", "sound", "spry", "steady", "still", "stout", "sunny", "swift", "tidy",
    "trim", "true", "warm", "wise",
];

const THINGS: &[&str] = &[
    "anchor", "bell", "berth", "boat", "boom", "bosun", "bow", "bridge", "brig", "buoy", "cabin",
    "cable", "canvas", "capstan", "cargo", "cleat", "coast", "compass", "crane", "crate", "crew",
    "current", "cutter", "deck", "dinghy", "dock", "ferry", "flag", "fleet", "galley", "gull",
    "halyard", "harbour", "hatch", "hawser", "helm", "hull", "island", "jetty", "keel", "ketch",
    "knot", "lagoon", "lantern", "launch", "lighter", "lock", "locker", "mast", "mate", "mooring",
    "oar", "pennant", "pier", "pilot", "port", "prow", "quay", "raft", "reef", "rigging", "rudder",
    "sail", "schooner", "sextant", "shore", "skiff", "sloop", "spar", "stern", "tender", "tide",
    "tiller", "tug", "voyage", "wake", "wave", "wharf", "winch", "wind",
];

/// A number that nobody can foresee, from the system by way of the standard
/// library's hash maps.
pub fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A name such as `brisk-tender-4c1f`: a container's id.
pub fn readable() -> String {
    let number = random();
    let pick = |list: &[&'static str], shift: u32| list[(number >> shift) as usize % list.len()];
    format!("{}-{}-{:04x}", pick(QUALITIES, 16), pick(THINGS, 32), number & 0xffff)
}

/// Those of `known` that `wanted` could have meant, the nearest first, at most
/// three.
pub fn near<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let short = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        last.split([':', '@']).next().unwrap_or(last).to_owned()
    };
    let mut ranked: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (distance(wanted, name).min(distance(&short(wanted), &short(name))), name))
        .filter(|(distance, _)| *distance <= 2.max(short(wanted).len() / 4))
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(_, name)| name).take(3).collect()
}

/// How many characters must be put in, taken out or changed to get from one
/// text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_valid_and_differ() {
        let names: std::collections::BTreeSet<String> = (0..200).map(|_| readable()).collect();
        assert!(names.len() > 190);
        for name in names {
            davit_types::ContainerId::new(name).unwrap();
        }
    }

    #[test]
    fn near_names_are_found() {
        let known = ["registry.test/davit/busybox:1", "alpine:3", "alpine:edge", "web"];
        assert_eq!(near("busybox", known), ["registry.test/davit/busybox:1"]);
        assert_eq!(near("busybxo:latest", known), ["registry.test/davit/busybox:1"]);
        assert_eq!(near("wbe", known), ["web"]);
        assert!(near("postgres", known).is_empty());
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }
}
