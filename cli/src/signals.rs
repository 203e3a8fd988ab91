//! Signals that davit receives, as a stream.

use std::future::poll_fn;
use std::task::Poll;
use std::{fs, io};

use nix::sys::signal::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Error;

/// Those that a container gets in place of davit.
const FORWARDED: [Number; 6] = [
    Number::SIGINT,
    Number::SIGTERM,
    Number::SIGHUP,
    Number::SIGQUIT,
    Number::SIGUSR1,
    Number::SIGUSR2,
];

/// From when it is made on, signals do not end davit but come out of here. Those
/// that davit was started to ignore stay ignored, as `nohup` wants it.
#[derive(Debug)]
pub struct Signals {
    forwarded: Vec<(Number, Signal)>,
    resized: Signal,
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Pass it on.
    Forward(u32),
    /// The terminal has another size.
    Resized,
}

impl Signals {
    /// Starts catching.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn catch() -> Result<Self, Error> {
        let ignored = ignored();
        let wanted = FORWARDED.into_iter().filter(|number| !is_in(ignored, *number));
        let of = |number: Number| Ok((number, signal(SignalKind::from_raw(number as i32))?));
        let all = || -> io::Result<Self> {
            Ok(Self {
                forwarded: wanted.map(of).collect::<io::Result<_>>()?,
                resized: signal(SignalKind::window_change())?,
            })
        };
        all().map_err(Error::io("cannot catch signals"))
    }

    /// The next one. Cancelling loses none.
    pub async fn next(&mut self) -> Received {
        poll_fn(|context| {
            for (number, signal) in &mut self.forwarded {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(Received::Forward(*number as u32));
                }
            }
            self.resized.poll_recv(context).map(|_| Received::Resized)
        })
        .await
    }

    /// The next one that asks davit to end.
    pub async fn ending(&mut self) -> u32 {
        loop {
            match self.next().await {
                Received::Forward(number)
                    if number != Number::SIGUSR1 as u32 && number != Number::SIGUSR2 as u32 =>
                {
                    return number;
                }
                _ => {}
            }
        }
    }
}

/// The signals that are ignored, a bit each (proc(5), `SigIgn`). None where
/// there is no /proc: they then come out like the others.
fn ignored() -> u64 {
    mask(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn mask(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn is_in(mask: u64, signal: Number) -> bool {
    mask >> (signal as u32 - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_a_mask() {
        let mask = mask("Name:\tdavit\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\n");
        assert!(is_in(mask, Number::SIGHUP) && is_in(mask, Number::SIGINT));
        assert!(!is_in(mask, Number::SIGQUIT) && !is_in(mask, Number::SIGTERM));
        assert_eq!(super::mask("Name:\tdavit\n"), 0);
    }
}
