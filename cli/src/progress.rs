//! How a transfer goes: bars on a terminal, lines elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use davit_client::transfer::types;

use crate::args::Format;
use crate::table;

/// How often bars are drawn at most.
const INTERVAL: Duration = Duration::from_millis(100);
/// The characters of a bar.
const BAR: usize = 24;
/// What a terminal has that does not say.
const SIZE: (usize, usize) = (80, 24);
/// The characters of a digest that are shown.
const SHORT: usize = 12;

/// Shows how a transfer goes, on standard error.
pub struct Progress {
    shape: Shape,
    blobs: Vec<Blob>,
    /// Lines that were drawn last, to be drawn over.
    drawn: usize,
    last: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bars,
    Lines,
    Nothing,
}

struct Blob {
    name: String,
    event: String,
    offset: u64,
    total: u64,
}

impl Progress {
    /// For people, unless `format` is for programs.
    pub fn new(format: Format) -> Self {
        let shape = match format {
            Format::Json => Shape::Nothing,
            Format::Table if io::stderr().is_terminal() => Shape::Bars,
            Format::Table => Shape::Lines,
        };
        Self { shape, blobs: Vec::new(), drawn: 0, last: None }
    }

    /// Takes in what the daemon tells.
    pub fn tell(&mut self, report: types::Progress) {
        // Steps of the whole, and names that images get, are not blobs.
        if self.shape == Shape::Nothing || !report.name.contains("-sha256:") {
            return;
        }
        let of = |number: i64| u64::try_from(number).unwrap_or_default();
        let (offset, total) = (of(report.progress), of(report.total));
        let place = self.blobs.iter().position(|blob| blob.name == report.name);
        let place = place.unwrap_or_else(|| {
            let (name, event) = (report.name.clone(), String::new());
            self.blobs.push(Blob { name, event, offset: 0, total });
            self.blobs.len() - 1
        });
        let blob = &mut self.blobs[place];
        let is_new = blob.event != report.event;
        (blob.event, blob.offset, blob.total) = (report.event, offset, total);
        match self.shape {
            Shape::Lines if is_new => self.line(place),
            Shape::Bars => self.draw(false),
            _ => {}
        }
    }

    /// Takes in how much of an archive has passed, of `total` bytes if that is
    /// known. Where there are no bars, only the end is told.
    pub fn archive(&mut self, event: &str, offset: u64, total: Option<u64>) {
        let total = total.unwrap_or_default();
        let blob = Blob { name: "archive".to_owned(), event: event.to_owned(), offset, total };
        self.blobs = vec![blob];
        match self.shape {
            Shape::Bars => self.draw(false),
            Shape::Lines if is_done(event) => self.line(0),
            _ => {}
        }
    }

    /// Draws the last state.
    pub fn end(&mut self) {
        if self.shape == Shape::Bars {
            self.draw(true);
        }
    }

    /// One line for one blob, when something else happens to it.
    fn line(&self, place: usize) {
        let blob = &self.blobs[place];
        if blob.event == "waiting" {
            return;
        }
        let (title, size) = (title(&blob.name), table::bytes(blob.size()));
        // Nobody reads it: just as well.
        let _ = writeln!(io::stderr(), "{title}: {} ({size})", blob.event);
    }

    fn draw(&mut self, now: bool) {
        let soon = self.last.is_some_and(|last| last.elapsed() < INTERVAL);
        if soon && !now {
            return;
        }
        self.last = Some(Instant::now());
        let (width, height) = terminal_size();
        let room = height.saturating_sub(1).max(1);
        let hidden = self.blobs.len().saturating_sub(room);
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        // What is done is of least interest.
        let mut shown: Vec<&Blob> = self.blobs.iter().collect();
        if hidden > 0 {
            shown.sort_by_key(|blob| is_done(&blob.event));
            shown.truncate(room);
        }
        for blob in &shown {
            let line: String = blob.text().chars().take(width.saturating_sub(1)).collect();
            let _ = writeln!(text, "\x1b[2K{line}");
        }
        self.drawn = shown.len();
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl Blob {
    /// All of its bytes; those so far where nobody knows.
    fn size(&self) -> u64 {
        if self.total == 0 { self.offset } else { self.total }
    }

    fn text(&self) -> String {
        let (title, event) = (title(&self.name), self.event.as_str());
        let sizes = match event {
            "waiting" => String::new(),
            _ if is_done(event) || self.total == 0 => table::bytes(self.size()),
            _ => format!("{} of {}", table::bytes(self.offset), table::bytes(self.total)),
        };
        let part = match event {
            _ if is_done(event) => BAR,
            _ if self.total == 0 => 0,
            _ => {
                let part = self.offset.min(self.total) as f64 / self.total as f64;
                (part * BAR as f64) as usize
            }
        };
        let bar = format!("{}{}", "#".repeat(part), ".".repeat(BAR - part));
        format!("{title:<22} {event:<15} [{bar}] {sizes}")
    }
}

fn is_done(event: &str) -> bool {
    ["complete", "already exists", "extracted"].contains(&event)
}

/// `layer 0123456789ab`
fn title(name: &str) -> String {
    let (kind, digest) = name.rsplit_once("-sha256:").unwrap_or((name, ""));
    let kind = kind.split('-').next().unwrap_or_default();
    let digest: String = digest.chars().take(SHORT).collect();
    format!("{kind} {digest}").trim_end().to_owned()
}

fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(event: &str, offset: u64) -> Blob {
        let name = format!("layer-sha256:{}", "ab".repeat(32));
        Blob { name, event: event.into(), offset, total: 3000 }
    }

    #[test]
    fn bars_grow() {
        assert!(blob("waiting", 0).text().contains(&format!("[{}]", ".".repeat(BAR))));
        let half = blob("downloading", 1500).text();
        assert!(half.starts_with("layer abababababab "), "{half}");
        assert!(half.contains(&format!("[{}{}]", "#".repeat(12), ".".repeat(12))), "{half}");
        assert!(blob("extracted", 0).text().contains(&"#".repeat(BAR)));
        // A daemon that says more than all.
        assert!(blob("uploading", 9000).text().contains(&"#".repeat(BAR)));
    }

    #[test]
    fn an_archive_of_unknown_size_has_no_share() {
        let archive = |event: &str, total| Blob {
            name: "archive".into(),
            event: event.into(),
            offset: 2048,
            total,
        };
        let text = archive("exporting", 0).text();
        assert!(text.starts_with("archive  ") && text.ends_with("] 2.0 KiB"), "{text}");
        assert!(text.contains(&format!("[{}]", ".".repeat(BAR))), "{text}");
        let text = archive("importing", 4096).text();
        assert!(text.ends_with("] 2.0 KiB of 4.0 KiB"), "{text}");
        assert!(archive("complete", 0).text().contains(&"#".repeat(BAR)));
    }

    #[test]
    fn names_are_short() {
        assert_eq!(
            title(&format!("manifest-v1@x-sha256:{}", "0".repeat(64))),
            "manifest 000000000000"
        );
    }
}
