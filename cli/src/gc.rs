//! Garbage: removing it, and why something is none.

use std::collections::BTreeMap;

use davit_client::Client;
use davit_protocols::grpc::davit::v1 as api;
use davit_types::ErrorKind;
use serde_json::{Value, json};

use crate::args::{Format, Gc, Why};
use crate::table::{self, Table};
use crate::{Error, output};

/// How many things there are of a kind, and their bytes.
type Totals = BTreeMap<String, (u64, u64)>;

/// `davit gc`.
///
/// # Errors
/// What the daemon answers, or that it is not davitd.
pub async fn collect(client: &Client, gc: Gc, format: Format) -> Result<u8, Error> {
    let request = api::CollectRequest { dry_run: gc.dry_run };
    let mut stream = client.maintenance().collect(request).await.map_err(explained)?.into_inner();
    let mut table = Table::new(&["NAMESPACE", "KIND", "NAME", "SIZE"]);
    let (mut rows, mut totals) = (Vec::new(), Totals::new());
    while let Some(message) = stream.message().await.map_err(explained)? {
        for garbage in message.garbage {
            let thing = garbage.thing.unwrap_or_default();
            let total = totals.entry(thing.kind.clone()).or_default();
            *total = (total.0 + 1, total.1 + garbage.size);
            if format == Format::Json {
                let mut row = thing_to_json(&thing);
                row["namespace"] = garbage.namespace.into();
                row["size"] = garbage.size.into();
                rows.push(row);
            } else {
                let size = table::bytes(garbage.size);
                table.row([garbage.namespace, thing.kind.clone(), name(&thing), size]);
            }
        }
    }
    match format {
        Format::Json => output::json(&totals_to_json(gc.dry_run, rows, &totals))?,
        Format::Table if totals.is_empty() => output::line("nothing to collect")?,
        Format::Table => {
            table.print().map_err(Error::io("standard output"))?;
            output::line(&summary(gc.dry_run, &totals))?;
        }
    }
    Ok(0)
}

fn totals_to_json(dry_run: bool, garbage: Vec<Value>, totals: &Totals) -> Value {
    let kinds: serde_json::Map<String, Value> = totals
        .iter()
        .map(|(kind, (count, size))| (kind.clone(), json!({"count": count, "size": size})))
        .collect();
    let size: u64 = totals.values().map(|(_, size)| size).sum();
    json!({"dryRun": dry_run, "garbage": garbage, "kinds": kinds, "size": size})
}

/// `12 things would go and free 3.4 MiB: 10 content (3.0 MiB), 2 lease`.
fn summary(dry_run: bool, totals: &Totals) -> String {
    let kind = |(kind, (count, size)): (&String, &(u64, u64))| match size {
        0 => format!("{count} {kind}"),
        size => format!("{count} {kind} ({})", table::bytes(*size)),
    };
    let kinds: Vec<String> = totals.iter().map(kind).collect();
    let count: u64 = totals.values().map(|(count, _)| count).sum();
    let size = table::bytes(totals.values().map(|(_, size)| size).sum());
    let things = if count == 1 { "thing" } else { "things" };
    let did = if dry_run { "would go and free" } else { "gone, which freed" };
    format!("{count} {things} {did} {size}: {}", kinds.join(", "))
}

/// `davit why`.
///
/// # Errors
/// What the daemon answers, or that it is not davitd.
pub async fn why(client: &Client, why: Why, format: Format) -> Result<u8, Error> {
    let request = api::ExplainRequest { name: why.name };
    let response = client.maintenance().explain(request).await.map_err(explained)?;
    let explanations = response.into_inner().explanations;
    match format {
        Format::Json => output::json(&explanations.iter().map(explanation_to_json).collect())?,
        Format::Table => explanations.iter().try_for_each(|it| output::line(&text(it)))?,
    }
    Ok(0)
}

/// What to say of a failure: a daemon without the service is not davitd.
fn explained(status: tonic::Status) -> Error {
    match Error::from(status) {
        error if error.kind() == ErrorKind::Unimplemented => {
            Error::usage("this daemon is not davitd: it cannot be asked what is garbage, and why")
        }
        other => other,
    }
}

fn name(thing: &api::Thing) -> String {
    match thing.snapshotter.as_str() {
        "" => thing.name.clone(),
        snapshotter => format!("{snapshotter}/{}", thing.name),
    }
}

/// Each chain as a stair from the root down.
fn text(explanation: &api::Explanation) -> String {
    let thing = explanation.thing.clone().unwrap_or_default();
    let mut text = format!("{} {}", thing.kind, name(&thing));
    if explanation.chains.is_empty() {
        return text + "\n  nothing holds it: it goes at the next collection";
    }
    for chain in &explanation.chains {
        for (depth, link) in chain.links.iter().enumerate() {
            let thing = link.thing.clone().unwrap_or_default();
            let ends = match expiry(link) {
                Some(end) => format!(", until {end}"),
                None => String::new(),
            };
            let (indent, kind, name) = (depth * 2 + 2, thing.kind.as_str(), name(&thing));
            text += &format!("\n{:indent$}{kind} {name} ({}{ends})", "", link.held_by);
        }
    }
    let more = explanation.roots.saturating_sub(explanation.chains.len() as u64);
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

fn expiry(link: &api::Link) -> Option<String> {
    link.expires.as_ref().and_then(output::time).map(|time| time.to_string())
}

fn thing_to_json(thing: &api::Thing) -> Value {
    let mut value = json!({"kind": thing.kind, "name": thing.name});
    if !thing.snapshotter.is_empty() {
        value["snapshotter"] = thing.snapshotter.as_str().into();
    }
    value
}

fn explanation_to_json(explanation: &api::Explanation) -> Value {
    let link = |link: &api::Link| {
        let mut value = thing_to_json(&link.thing.clone().unwrap_or_default());
        value["heldBy"] = link.held_by.as_str().into();
        if let Some(end) = expiry(link) {
            value["expires"] = end.into();
        }
        value
    };
    let chains: Vec<Value> =
        explanation.chains.iter().map(|chain| chain.links.iter().map(link).collect()).collect();
    let mut value = thing_to_json(&explanation.thing.clone().unwrap_or_default());
    value["roots"] = explanation.roots.into();
    value["chains"] = chains.into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(kind: &str, snapshotter: &str, name: &str) -> Option<api::Thing> {
        let [kind, snapshotter, name] = [kind, snapshotter, name].map(str::to_owned);
        Some(api::Thing { kind, snapshotter, name })
    }

    #[test]
    fn chains_are_told_from_the_root_down() {
        let link = |thing, held_by: &str, expires: Option<i64>| api::Link {
            thing,
            held_by: held_by.into(),
            expires: expires.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        };
        let chain = vec![
            link(thing("lease", "", "pull"), "leases stay by themselves", Some(60)),
            link(thing("snapshot", "overlayfs", "a\x1b[31m"), "held by the lease", None),
        ];
        let mut explanation = api::Explanation {
            thing: thing("snapshot", "overlayfs", "a"),
            chains: vec![api::Chain { links: chain }],
            roots: 3,
        };
        assert_eq!(
            text(&explanation),
            "snapshot overlayfs/a\n  \
             lease pull (leases stay by themselves, until 1970-01-01T00:01:00Z)\n    \
             snapshot overlayfs/a [31m (held by the lease)\n  and 2 more"
        );
        let value = explanation_to_json(&explanation);
        assert_eq!(value["chains"][0][0]["expires"], "1970-01-01T00:01:00Z");
        assert_eq!(value["chains"][0][1]["snapshotter"], "overlayfs");
        explanation.chains.clear();
        assert!(text(&explanation).ends_with("goes at the next collection"));
    }

    #[test]
    fn a_summary_counts_by_kind() {
        let mut totals = Totals::from([("lease".to_owned(), (1, 0))]);
        assert_eq!(summary(false, &totals), "1 thing gone, which freed 0 B: 1 lease");
        totals.insert("content".into(), (2, 2048));
        assert_eq!(
            summary(true, &totals),
            "3 things would go and free 2.0 KiB: 2 content (2.0 KiB), 1 lease"
        );
        let value = totals_to_json(true, Vec::new(), &totals);
        assert_eq!(value["size"], 2048);
        assert_eq!(value["kinds"]["content"]["count"], 2);
    }
}
