//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::{Error, Result};

/// Sets a terminal's size, in characters.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn set_size(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call returns.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    match result {
        0 => Ok(()),
        _ => Err(Error::call("ioctl TIOCSWINSZ", io::Error::last_os_error())),
    }
}

/// A terminal's size: columns, rows.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn size(terminal: impl AsFd) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which lives until the call returns.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    match result {
        0 => Ok((size.ws_col, size.ws_row)),
        _ => Err(Error::call("ioctl TIOCGWINSZ", io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_back() {
        let pty = nix::pty::openpty(None, None).unwrap();
        set_size(&pty.master, 132, 43).unwrap();
        assert_eq!(size(&pty.slave).unwrap(), (132, 43));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(set_size(&file, 1, 1).unwrap_err().errno(), Some(libc::ENOTTY));
    }
}
