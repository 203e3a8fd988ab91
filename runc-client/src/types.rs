//! What the runtime answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// A container's state, as `state` and `list` print it (OCI runtime
/// specification, "State", plus what runc adds).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// Version of the specification.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The init process in the caller's pid namespace; 0 when it has exited.
    #[serde(deserialize_with = "pid_or_zero")]
    pub pid: u32,
    /// What the container is doing.
    pub status: Status,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The root file system's directory, where the runtime tells.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// User who created it; empty where the runtime does not tell.
    pub owner: String,
    /// Annotations of its specification.
    pub annotations: HashMap<String, String>,
}

/// runsc says -1 where the others say 0.
fn pid_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    Ok(u32::try_from(i64::deserialize(deserializer)?).unwrap_or(0))
}

impl State {
    /// When it was created; `None` if the runtime's word is no RFC 3339 time.
    pub fn created_at(&self) -> Option<SystemTime> {
        parse_rfc3339(&self.created)
    }
}

/// What a container is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Being created.
    Creating,
    /// Created, its process not started.
    Created,
    /// Running.
    Running,
    /// Paused.
    Paused,
    /// Its process has exited.
    #[default]
    Stopped,
    /// Another word of the runtime's.
    #[serde(untagged)]
    Other(String),
}

/// Output of `ps` as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessTable {
    /// The columns' titles.
    pub titles: Vec<String>,
    /// One row a process, one cell a title; the last cell may hold spaces.
    pub rows: Vec<Vec<String>>,
}

/// What `--version` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// Name of the runtime, the first word.
    pub name: String,
    /// Version of the runtime.
    pub version: String,
    /// Commit it was built from, if it tells.
    pub commit: Option<String>,
    /// Version of the runtime specification, if it tells.
    pub spec: Option<String>,
    /// The whole output.
    pub text: String,
}

/// What `features` prints (OCI runtime specification, "Features Structure").
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Features {
    /// Oldest version of the specification that is understood.
    pub oci_version_min: String,
    /// Newest version of the specification that is understood.
    pub oci_version_max: String,
    /// Hooks that are run.
    pub hooks: Vec<String>,
    /// Mount options that are known.
    pub mount_options: Vec<String>,
    /// Annotations by which a runtime tells more (versions, CRIU support).
    pub annotations: HashMap<String, String>,
    /// The Linux part, as it stands.
    pub linux: serde_json::Value,
    /// The whole answer, unchanged.
    #[serde(skip)]
    pub json: Vec<u8>,
}

/// Reads a pid file that a call has written.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Parse`] when it holds no pid.
pub fn read_pid_file(path: &Path) -> Result<u32> {
    let text = std::fs::read(path)
        .map_err(|error| Error::io(format!("read pid file {}", path.display()), error))?;
    let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| Error::parse("pid file", &text, None))
}

impl ProcessTable {
    /// Reads a table whose first line holds titles without spaces.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let titles: Vec<String> =
            lines.next().unwrap_or_default().split_whitespace().map(Into::into).collect();
        let rows = lines.map(|line| split_row(line, titles.len())).collect();
        Self { titles, rows }
    }

    /// The cells under `title`; empty if there is no such column.
    pub fn column(&self, title: &str) -> Vec<&str> {
        let Some(index) = self.titles.iter().position(|known| known == title) else {
            return Vec::new();
        };
        self.rows.iter().filter_map(|row| row.get(index)).map(String::as_str).collect()
    }
}

/// The line in at most `count` cells; the last one takes the rest.
fn split_row(line: &str, count: usize) -> Vec<String> {
    let mut cells = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).filter(|_| cells.len() + 1 < count);
        let (cell, after) = rest.split_at(end.unwrap_or(rest.len()));
        cells.push(cell.to_owned());
        rest = after.trim_start();
    }
    cells
}

impl Version {
    /// Reads `NAME version VERSION`, then `key: value` lines; `None` for another
    /// first line.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (name, version) = lines.next()?.split_once(" version ")?;
        let mut parsed = Self {
            name: name.trim().to_owned(),
            version: version.trim().to_owned(),
            text: text.to_owned(),
            ..Self::default()
        };
        for (key, value) in lines.filter_map(|line| line.split_once(": ")) {
            match key.trim() {
                "commit" => parsed.commit = Some(value.trim().to_owned()),
                "spec" => parsed.spec = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        Some(parsed)
    }
}

/// Reads a time such as `2026-11-22T06:20:24.059Z` or `...+01:00`.
fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone);
    let days = days_since_epoch(numbers(date, '-')?)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let seconds = days * 86_400 + seconds_of_day(clock)? - offset(zone)?;
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(seconds).ok()?, nanos))
}

/// `text` as three numbers.
fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| part.parse::<u32>().ok().map(i64::from));
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn seconds_of_day(clock: &str) -> Option<i64> {
    let [hour, minute, second] = numbers(clock, ':')?;
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Seconds east of UTC.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.chars().next()? {
        'Z' | 'z' => return (zone.len() == 1).then_some(0),
        '-' => -1,
        _ => 1,
    };
    Some(sign * seconds_of_day(&format!("{}:00", &zone[1..]))?)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, counted in years
/// that begin in March, so that the leap day is a year's last.
fn days_since_epoch([year, month, day]: [i64; 3]) -> Option<i64> {
    /// 1970-01-01, with 0000-03-01 as day 1.
    const EPOCH: i64 = 719_469;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let before_month = (153 * month + 2) / 5;
    Some(year * 365 + leap_days + before_month + day - EPOCH)
}

#[cfg(test)]
mod tests;
