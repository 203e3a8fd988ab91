//! Operations that only look.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::args::{Args, check_id};
use crate::call::{Call, Ended, Running};
use crate::error::{Error, Result};
use crate::runc::Runc;
use crate::stats::{Event, Stats};
use crate::types::{Features, ProcessTable, State, Version};

impl Runc {
    /// The container's state.
    ///
    /// # Errors
    /// `NotFound`, or any other.
    pub async fn state(&self, id: &str) -> Result<State> {
        check_id("state", id)?;
        let args = Args::of("state").arg(id);
        parse(&self.call(Call::new("state", args)).await?.success()?)
    }

    /// All containers under the client's root.
    ///
    /// # Errors
    /// Any.
    pub async fn list(&self) -> Result<Vec<State>> {
        let args = Args::of("list").arg("--format").arg("json");
        let ended = self.call(Call::new("list", args)).await?;
        // runc since 1.2 fails where no container was ever made.
        if !ended.status.success() && self.root.as_ref().is_some_and(|root| !root.exists()) {
            return Ok(Vec::new());
        }
        let ended = ended.success()?;
        parse::<Option<Vec<State>>>(&ended).map(Option::unwrap_or_default)
    }

    /// The pids of the container's processes, in the caller's pid namespace
    /// (runsc: in the sandbox's).
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, or any other.
    pub async fn ps(&self, id: &str) -> Result<Vec<u32>> {
        check_id("ps", id)?;
        let args = Args::of("ps").arg("--format").arg("json").arg(id);
        let ended = self.call(Call::new("ps", args)).await?.success()?;
        parse::<Option<Vec<u32>>>(&ended).map(Option::unwrap_or_default)
    }

    /// The container's processes as `ps` on the host prints them; `args` are
    /// arguments of `ps`, `-ef` if there are none.
    ///
    /// # Errors
    /// As [`Runc::ps`]; runtimes that only know pids give a table of one column.
    pub async fn ps_table(&self, id: &str, args: &[&str]) -> Result<ProcessTable> {
        check_id("ps", id)?;
        let mut line = Args::of("ps").arg(id);
        line.0.extend(args.iter().map(Into::into));
        let ended = self.call(Call::new("ps", line)).await?.success()?;
        Ok(ProcessTable::parse(&String::from_utf8_lossy(&ended.stdout)))
    }

    /// The container's statistics.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, `Unsupported`, or any other.
    pub async fn stats(&self, id: &str) -> Result<Stats> {
        check_id("events", id)?;
        let args = Args::of("events").arg("--stats").arg(id);
        let ended = self.call(Call::new("events", args)).await?.success()?;
        match parse(&ended)? {
            Event::Stats(stats) => Ok(*stats),
            _ => Err(Error::parse("events", &ended.stdout, None)),
        }
    }

    /// The container's events: statistics every `interval`, and memory running
    /// out, until it is deleted. The client's time limit does not hold.
    ///
    /// # Errors
    /// `Unsupported` from runsc for intervals other than 5 s, its default. When the runtime cannot be started. What it says later comes from
    /// [`Events::next`].
    pub fn events(&self, id: &str, interval: Duration) -> Result<Events> {
        check_id("events", id)?;
        // runsc counts in seconds, without a unit; the default is everybody's.
        let interval = (interval != Duration::from_secs(5))
            .then(|| format!("{}ms", interval.as_millis().max(1)));
        let args = Args::of("events").value("--interval", interval).arg(id);
        Ok(Events { running: Some(self.begin(Call::new("events", args))?) })
    }

    /// What the runtime supports.
    ///
    /// # Errors
    /// `Unsupported` for one that cannot tell, or any other.
    pub async fn features(&self) -> Result<Features> {
        let ended = self.call(Call::new("features", Args::of("features"))).await?.success()?;
        let features: Features = parse(&ended)?;
        Ok(Features { json: ended.stdout, ..features })
    }

    /// The runtime's version.
    ///
    /// # Errors
    /// `BinaryNotFound`, or any other.
    pub async fn version(&self) -> Result<Version> {
        let ended = self.call(Call::new("version", Args::of("--version"))).await?.success()?;
        let text = String::from_utf8_lossy(&ended.stdout);
        Version::parse(&text).ok_or_else(|| Error::parse("version", &ended.stdout, None))
    }
}

/// The JSON value that a call has printed.
fn parse<T: DeserializeOwned>(ended: &Ended) -> Result<T> {
    serde_json::from_slice(&ended.stdout)
        .map_err(|error| Error::parse(ended.operation, &ended.stdout, Some(error)))
}

/// A running `events` call. Dropping it kills the runtime process.
pub struct Events {
    /// Gone once the end was reported.
    running: Option<Running>,
}

impl Events {
    /// The next event; `None` when the container is no more. Cancelling it
    /// loses nothing.
    ///
    /// # Errors
    /// What the runtime ended with; nothing follows. [`Error::Parse`] for what
    /// is no event; more may follow.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            let running = self.running.as_mut()?;
            if let Some(event) = take_event(&mut running.stdout.bytes) {
                return Some(event);
            }
            if running.exit.is_some() {
                let ended = self.running.take()?.into_ended();
                return ended.success().err().map(Err);
            }
            if let Err(error) = running.step().await {
                self.running = None;
                return Some(Err(error));
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("ended", &self.running.is_none()).finish()
    }
}

/// Takes the first line that is not blank off `bytes`, if it is whole.
fn take_event(bytes: &mut Vec<u8>) -> Option<Result<Event>> {
    loop {
        let end = bytes.iter().position(|byte| *byte == b'\n')? + 1;
        let line: Vec<u8> = bytes.drain(..end).collect();
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event = serde_json::from_slice(&line);
        return Some(event.map_err(|error| Error::parse("events", &line, Some(error))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_line_by_line() {
        let mut bytes = b"\n{\"type\":\"oom\",\"id\":\"a\"}\nnot json\n{\"type\":\"oo".to_vec();
        assert_eq!(take_event(&mut bytes).unwrap().unwrap(), Event::Oom);
        assert!(matches!(take_event(&mut bytes), Some(Err(Error::Parse { .. }))));
        assert!(take_event(&mut bytes).is_none());
        bytes.extend_from_slice(b"m\"}\n");
        assert_eq!(take_event(&mut bytes).unwrap().unwrap(), Event::Oom);
        assert!(bytes.is_empty());
    }
}
