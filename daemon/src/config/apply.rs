//! Taking what one file says into a [`Config`].

use super::document::{Document, Section};
use super::error::ConfigError;
use super::migrate;
use super::{Config, LATEST_VERSION, PROXY_TYPES, ProxyPlugin, StreamProcessor};

/// containerd's names for how much to log.
pub const LEVELS: [&str; 7] = ["trace", "debug", "info", "warn", "error", "fatal", "panic"];

/// What no proxy can be called, because it is there already.
const OURS: [(&str, &str); 6] = [
    ("snapshot", "btrfs"),
    ("snapshot", "erofs"),
    ("snapshot", "native"),
    ("snapshot", "overlayfs"),
    ("content", "content"),
    ("diff", "walking"),
];

/// The version of the format that a file says it has: 1 when it does not say
/// so.
///
/// # Errors
/// It is not a version that is known.
pub fn version(document: &Document<'_>) -> Result<i64, ConfigError> {
    let mut root = document.root();
    Ok(root.integer("version", 0, LATEST_VERSION)?.unwrap_or(1).max(1))
}

/// Takes what `document` says into `config`, adds what to warn of, and
/// answers with what it imports.
///
/// # Errors
/// The first thing that is wrong, in no particular order.
pub fn apply(
    document: &Document<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, ConfigError> {
    let version = version(document)?;
    let mut root = document.root();
    root.take("version");
    if let Some(path) = root.string("root")? {
        config.root = path.into();
    }
    if let Some(path) = root.string("state")? {
        config.state = path.into();
    }
    if let Some(score) = set(root.integer("oom_score", -1000, 1000)?) {
        config.oom_score = score as i32;
    }
    for (key, list) in [
        ("disabled_plugins", &mut config.disabled_plugins),
        ("required_plugins", &mut config.required_plugins),
    ] {
        apply_plugin_names(&mut root, version, key, list)?;
    }
    let imports = root.strings("imports")?;
    merge(&mut config.imports, imports.clone());
    apply_sections(&mut root, config, warnings)?;
    if let Some(mut plugins) = root.section("plugins")? {
        for (name, section) in plugins.sections()? {
            apply_plugin(&plugins, version, &name, section, config, warnings)?;
        }
    }
    root.finish(warnings);
    Ok(imports)
}

fn apply_sections(
    root: &mut Section<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    if let Some(section) = root.section("grpc")? {
        apply_grpc(section, config, warnings)?;
    }
    if let Some(section) = root.section("ttrpc")? {
        apply_ttrpc(section, config, warnings)?;
    }
    if let Some(section) = root.section("debug")? {
        apply_debug(section, config, warnings)?;
    }
    if let Some(section) = root.section("timeouts")? {
        apply_timeouts(section, config, warnings)?;
    }
    if let Some(mut section) = root.section("proxy_plugins")? {
        for (name, plugin) in section.sections()? {
            let (place, full) = (section.place(&name), section.full_name(&name));
            let plugin = proxy_plugin(plugin, warnings)?;
            if OURS.contains(&(plugin.kind.as_str(), name.as_str())) {
                let reason = "the daemon has one of that name itself";
                return Err(section.invalid(&name, reason));
            }
            if plugin.kind == "sandbox" {
                warnings.push(format!("{place}: {full} is understood and not used yet"));
            }
            config.proxy_plugins.insert(name, plugin);
        }
    }
    if let Some(mut section) = root.section("stream_processors")? {
        for (name, processor) in section.sections()? {
            config.stream_processors.insert(name, stream_processor(processor, warnings)?);
        }
    }
    for name in ["cgroup", "metrics"] {
        if let Some(section) = root.section(name)? {
            section.finish(warnings);
        }
    }
    Ok(())
}

fn apply_plugin_names(
    root: &mut Section<'_>,
    version: i64,
    key: &str,
    list: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let names = root.strings(key)?;
    for name in &names {
        // containerd's check, and its words.
        if version > 1 && !name.contains('.') {
            let kind = key.trim_end_matches("_plugins");
            let reason = format!("invalid {kind} plugin URI {name:?} expect io.containerd.x.vx");
            return Err(root.invalid(key, &reason));
        }
    }
    merge(list, names.iter().map(|name| migrate::plugin_name(version, name)).collect());
    Ok(())
}

fn apply_grpc(
    mut section: Section<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let grpc = &mut config.grpc;
    if let Some(address) = section.string("address")? {
        grpc.address = address.into();
    }
    (grpc.uid, grpc.gid) = owner(&mut section, grpc.uid, grpc.gid)?;
    let largest = i64::from(i32::MAX);
    if let Some(size) = set(section.integer("max_recv_message_size", 0, largest)?) {
        grpc.max_recv_message_size = size as usize;
    }
    if let Some(size) = set(section.integer("max_send_message_size", 0, largest)?) {
        grpc.max_send_message_size = size as usize;
    }
    section.finish(warnings);
    Ok(())
}

fn apply_ttrpc(
    mut section: Section<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let ttrpc = &mut config.ttrpc;
    if let Some(address) = section.string("address")? {
        ttrpc.address = address.into();
    }
    (ttrpc.uid, ttrpc.gid) = owner(&mut section, ttrpc.uid, ttrpc.gid)?;
    section.finish(warnings);
    Ok(())
}

fn owner(section: &mut Section<'_>, uid: u32, gid: u32) -> Result<(u32, u32), ConfigError> {
    // The highest number means "leave it" to chown(2).
    let highest = i64::from(u32::MAX) - 1;
    let new_uid = set(section.integer("uid", 0, highest)?);
    let new_gid = set(section.integer("gid", 0, highest)?);
    Ok((new_uid.map_or(uid, |uid| uid as u32), new_gid.map_or(gid, |gid| gid as u32)))
}

fn apply_debug(
    mut section: Section<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    if let Some(level) = section.choice("level", &LEVELS)? {
        config.debug.level = level;
    }
    if let Some(format) = section.choice("format", &["text", "json"])? {
        config.debug.format = format;
    }
    section.finish(warnings);
    Ok(())
}

fn apply_timeouts(
    mut section: Section<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let timeouts = &mut config.timeouts;
    for (key, timeout) in [
        ("io.containerd.timeout.shim.cleanup", &mut timeouts.shim_cleanup),
        ("io.containerd.timeout.shim.load", &mut timeouts.shim_load),
        ("io.containerd.timeout.shim.shutdown", &mut timeouts.shim_shutdown),
        ("io.containerd.timeout.task.state", &mut timeouts.task_state),
    ] {
        if let Some(length) = section.duration(key)? {
            *timeout = length;
        }
    }
    section.finish(warnings);
    Ok(())
}

fn proxy_plugin(
    mut section: Section<'_>,
    warnings: &mut Vec<String>,
) -> Result<ProxyPlugin, ConfigError> {
    let names: Vec<&str> = PROXY_TYPES.iter().flat_map(|(kind, plugin)| [*kind, *plugin]).collect();
    let kind = section.choice("type", &names)?.unwrap_or_default();
    if kind.is_empty() {
        return Err(section.invalid("type", &format!("is missing; one of {}", names.join(", "))));
    }
    let short = PROXY_TYPES.iter().find(|(_, plugin)| *plugin == kind);
    let platform = section.string("platform")?.unwrap_or_default();
    if !platform.is_empty()
        && let Err(error) = davit_types::Platform::parse(&platform)
    {
        return Err(section.invalid("platform", &error.to_string()));
    }
    let plugin = ProxyPlugin {
        kind: short.map_or(kind.clone(), |(kind, _)| (*kind).to_owned()),
        address: section.string("address")?.unwrap_or_default(),
        platform,
        capabilities: section.strings("capabilities")?,
        exports: match section.section("exports")? {
            None => Default::default(),
            Some(mut exports) => exports
                .keys()
                .into_iter()
                .map(|key| Ok((key.clone(), exports.string(&key)?.unwrap_or_default())))
                .collect::<Result<_, ConfigError>>()?,
        },
    };
    section.finish(warnings);
    Ok(plugin)
}

fn stream_processor(
    mut section: Section<'_>,
    warnings: &mut Vec<String>,
) -> Result<StreamProcessor, ConfigError> {
    let processor = StreamProcessor {
        accepts: section.strings("accepts")?,
        returns: section.string("returns")?.unwrap_or_default(),
        path: section.string("path")?.unwrap_or_default(),
        args: section.strings("args")?,
        env: section.strings("env")?,
    };
    section.finish(warnings);
    Ok(processor)
}

fn apply_plugin(
    parent: &Section<'_>,
    version: i64,
    name: &str,
    mut section: Section<'_>,
    config: &mut Config,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let current = migrate::plugin_name(version, name);
    match current.as_str() {
        // Version 4 has the sockets here.
        "io.containerd.server.v1.grpc" => apply_grpc(section, config, warnings),
        "io.containerd.server.v1.ttrpc" => apply_ttrpc(section, config, warnings),
        current if config.plugins.apply(current, &mut section)? => {
            section.finish(warnings);
            Ok(())
        }
        _ => {
            if section.asks_for_something() {
                let (place, full) = (parent.place(name), parent.full_name(name));
                warnings.push(format!("{place}: {full} does not apply and is ignored"));
            }
            Ok(())
        }
    }
}

/// Outside plugins, zero is no value: containerd does not tell it from
/// nothing when it merges files.
fn set(number: Option<i64>) -> Option<i64> {
    number.filter(|number| *number != 0)
}

/// Adds what is not there yet, as containerd merges lists.
fn merge(list: &mut Vec<String>, more: Vec<String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}
