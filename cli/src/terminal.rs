//! The terminal that davit itself is on: raw mode that is always undone, its
//! size, and the keys that mean davit and not the container.

use std::io;
use std::str::FromStr;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// How the terminal was before raw mode; `None` while it is as it was.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Undoes raw mode, if it is on.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // There is nobody left to tell when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Raw mode on the terminal of standard input, for as long as this lives. A
/// panic undoes it too, before it prints; signals do so by ending the program
/// through `main`, for davit catches them while it is attached.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Turns raw mode on.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                print(info);
            }));
        });
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let mode = Self(());
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether standard input is a terminal.
pub fn is_input() -> bool {
    isatty(io::stdin())
}

/// Columns and rows of the terminal that standard input or output is; `None`
/// where neither is one, or it does not say.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Columns of the terminal that standard output is; `None` where it is none.
pub fn output_width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// The keys that leave a process to itself, such as `ctrl-p,ctrl-q`; none at
/// all when it was given as the empty text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// docker's.
    pub const DEFAULT: &str = "ctrl-p,ctrl-q";
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

/// The byte that a terminal sends for a key.
fn key(name: &str) -> Result<u8, String> {
    let refuse =
        || format!("{name:?} is no key; write a letter, or ctrl- and one of a-z @ [ \\ ] ^ _");
    let control = name.strip_prefix("ctrl-");
    let [byte] = control.unwrap_or(name).as_bytes() else { return Err(refuse()) };
    match (control.is_some(), byte) {
        (false, byte) if byte.is_ascii_graphic() => Ok(*byte),
        (true, byte) if byte.is_ascii_alphabetic() || b"@[\\]^_".contains(byte) => {
            Ok(byte.to_ascii_uppercase() & 0x1f)
        }
        _ => Err(refuse()),
    }
}

/// Looks for detach keys in what is typed.
#[derive(Debug)]
pub struct DetachFilter {
    keys: Vec<u8>,
    /// The start of the keys, met and held back.
    held: Vec<u8>,
}

impl DetachFilter {
    /// Looks for `keys`.
    pub fn new(keys: &DetachKeys) -> Self {
        Self { keys: keys.0.clone(), held: Vec::new() }
    }

    /// Puts into `out` what goes to the container; true once all the keys
    /// were met in a row. What comes after them is dropped.
    pub fn feed(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(typed);
            return false;
        }
        for byte in typed {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                out.push(self.held.remove(0));
            }
            if self.held.len() == self.keys.len() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bytes() {
        for (text, bytes) in [
            ("ctrl-p,ctrl-q", &[16, 17][..]),
            ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", &[0, 27, 28, 29, 30, 31]),
            ("a,Z,ctrl-Z", b"aZ\x1a"),
            ("", b""),
        ] {
            assert_eq!(text.parse(), Ok(DetachKeys(bytes.to_vec())), "{text}");
        }
        for text in ["ctrl-", "ctrl-1", "ab", ",", "ctrl-p,", "é"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text:?}");
        }
    }

    fn typed(keys: &str, pieces: &[&str]) -> (String, bool) {
        let mut filter = DetachFilter::new(&keys.parse().unwrap());
        let mut out = Vec::new();
        let detached = pieces.iter().any(|piece| filter.feed(piece.as_bytes(), &mut out));
        (String::from_utf8(out).unwrap(), detached)
    }

    #[test]
    fn keys_are_found_across_reads_and_after_false_starts() {
        for (keys, pieces, out, detached) in [
            ("ctrl-p,ctrl-q", &["ab\x10", "\x11c"][..], "ab", true),
            ("ctrl-p,ctrl-q", &["\x10x\x11"], "\x10x\x11", false),
            ("ctrl-p,ctrl-q", &["\x10\x10\x11"], "\x10", true),
            ("a,a,b", &["aaab"], "a", true),
            ("", &["\x10\x11"], "\x10\x11", false),
        ] {
            assert_eq!(typed(keys, pieces), (out.to_owned(), detached), "{keys} {pieces:?}");
        }
    }
}
