//! What other people's crates we take in: licences, sources, bans. The rules
//! are in `deny.toml`, in cargo-deny's format, so that cargo-deny reads them
//! too; this test needs nothing but cargo. Advisories are not looked up here: see
//! the section in `deny.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use davit_tests::{list, metadata, workspace};
use serde_json::Value;

fn rules() -> toml::Table {
    let text = fs::read_to_string(workspace().join("deny.toml")).expect("deny.toml exists");
    text.parse().expect("deny.toml is TOML")
}

fn strings(rules: &toml::Table, section: &str, key: &str) -> BTreeSet<String> {
    let values = rules[section][key].as_array().expect("a list");
    values.iter().map(|value| value.as_str().expect("a string").to_owned()).collect()
}

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// Whether an SPDX expression can be met with `allowed` licences. `OR` binds
/// weaker than `AND`; `/` is an old spelling of `OR`.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let flat = expression.replace('/', " OR ");
    if let Some((before, rest)) = flat.split_once('(')
        && let Some((inner, after)) = rest.split_once(')')
    {
        let word = if satisfied(inner, allowed) { "YES" } else { "NO" };
        return satisfied(&format!("{before}{word}{after}"), allowed);
    }
    flat.split(" OR ").any(|choice| {
        choice.split(" AND ").all(|licence| {
            let licence = licence.trim();
            licence == "YES" || allowed.contains(licence)
        })
    })
}

#[test]
fn licences_are_among_those_allowed() {
    let allowed = strings(&rules(), "licenses", "allow");
    for package in list(&metadata(), "packages").filter(|p| !p["source"].is_null()) {
        let licence = text(package, "license");
        assert!(
            satisfied(licence, &allowed),
            "{} {}: {licence:?} is not allowed by deny.toml",
            text(package, "name"),
            text(package, "version"),
        );
    }
}

#[test]
fn everything_comes_from_the_registry() {
    for package in list(&metadata(), "packages").filter(|p| !p["source"].is_null()) {
        let source = text(package, "source");
        assert!(source.starts_with("registry+"), "{}: {source}", text(package, "name"));
    }
}

#[test]
fn nothing_banned_is_taken_in() {
    let rules = rules();
    let banned: BTreeMap<String, String> = rules["bans"]["deny"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            (entry["crate"].as_str().unwrap_or_default().into(), entry["reason"].to_string())
        })
        .collect();
    for package in list(&metadata(), "packages") {
        if let Some(reason) = banned.get(text(package, "name")) {
            panic!("{} is banned: {reason}", text(package, "name"));
        }
    }
}

#[test]
fn expressions_are_understood() {
    let allowed: BTreeSet<String> = ["MIT", "Unicode-3.0"].map(String::from).into();
    for (expression, expected) in [
        ("MIT", true),
        ("Apache-2.0", false),
        ("MIT OR Apache-2.0", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}
