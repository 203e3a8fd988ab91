//! The system's errors in Go's words, which clients match.

use std::error::Error;
use std::io;

use nix::errno::Errno;

/// `no such file or directory`, without a number behind it.
pub fn of(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = Errno::from_raw(number).desc();
    let mut letters = text.chars();
    // "I/O error" and "RPC program..." stay as they are.
    let one_word = text.chars().nth(1).is_some_and(char::is_lowercase);
    match letters.next() {
        Some(first) if one_word => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// The words of the system's error behind another; none where there is none.
pub fn behind(error: &(dyn Error + 'static)) -> Option<String> {
    let innermost = std::iter::successors(Some(error), |&error| error.source()).last()?;
    innermost.downcast_ref().map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_gos() {
        let words = |number| of(&io::Error::from_raw_os_error(number));
        assert_eq!(words(nix::libc::ENOENT), "no such file or directory");
        assert_eq!(words(nix::libc::EACCES), "permission denied");
        assert_eq!(of(&io::Error::other("mine")), "mine");
        let missing = davit_sys::cgroup::at("nosuch".as_ref()).unwrap_err();
        assert_eq!(behind(&missing).as_deref(), Some("no such file or directory"));
        assert_eq!(behind(&std::fmt::Error), None);
    }
}
