//! Tables for people, and how people read times and sizes.

use std::io::{self, Write};

use jiff::Timestamp;

/// What stands at the end of a text that was cut.
const CUT: char = '…';

/// No column is made narrower than this, in characters.
const NARROWEST: usize = 8;

/// Between columns, in blanks.
const GAP: usize = 3;

/// Rows of text below a row of headings.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with as many texts as there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The whole table; with a width, the widest columns are cut until every
    /// line fits into it.
    pub fn render(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.headings.iter().map(|text| text.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if let Some(width) = width {
            fit(&mut widths, width);
        }
        let headings: Vec<String> = self.headings.iter().map(|text| text.to_string()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{:width$}{:GAP$}", cut(cell, *width), "", width = *width));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints it, as wide as the terminal; whole where there is none.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn print(&self) -> io::Result<()> {
        let text = self.render(crate::terminal::output_width());
        io::stdout().lock().write_all(text.as_bytes())
    }
}

/// What comes from images and containers must not speak to the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Takes characters from the widest column until the sum fits.
fn fit(widths: &mut [usize], width: usize) {
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
    while total(widths) > width {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => return,
        }
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain([CUT]).collect()
}

/// `5 seconds`, `3 hours`: how long ago something was.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "-".into() };
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    let units = [
        ("year", 31_536_000),
        ("month", 2_592_000),
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
    ];
    let (unit, count) = units
        .iter()
        .map(|(unit, length)| (*unit, seconds / length))
        .find(|(_, count)| *count > 0)
        .unwrap_or(("second", seconds));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `4.2 MiB`: a number of bytes.
pub fn bytes(count: u64) -> String {
    let mut number = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if number < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{number:.1} {unit}") };
        }
        number /= 1024.0;
    }
    format!("{number:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "COMMAND"]);
        table.row(["a".to_owned(), "sh -c 'something rather long to read'".to_owned()]);
        table.row(["second-name".to_owned(), "true\x1b[31m".to_owned()]);
        table
    }

    #[test]
    fn nothing_is_cut_without_a_terminal() {
        assert_eq!(
            table().render(None),
            "NAME          COMMAND\n\
             a             sh -c 'something rather long to read'\n\
             second-name   true [31m\n"
        );
    }

    #[test]
    fn lines_fit_a_terminal() {
        for width in [20, 30, 40] {
            let text = table().render(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}\n{text}");
        }
        assert!(table().render(Some(30)).contains("sh -c 'somethin…"));
    }

    #[test]
    fn a_terminal_too_narrow_does_not_hang() {
        assert!(table().render(Some(1)).contains("NAME"));
    }

    #[test]
    fn ages_and_sizes() {
        let now = Timestamp::from_second(10_000_000).unwrap();
        let ago = |seconds: i64| age(Timestamp::from_second(10_000_000 - seconds).ok(), now);
        assert_eq!(ago(0), "0 seconds");
        assert_eq!(ago(1), "1 second");
        assert_eq!(ago(7300), "2 hours");
        assert_eq!(ago(86_400), "1 day");
        assert_eq!(ago(-5), "0 seconds", "clocks differ");
        assert_eq!(age(None, now), "-");
        assert_eq!([bytes(17), bytes(1536), bytes(5 << 30)], ["17 B", "1.5 KiB", "5.0 GiB"]);
    }
}
