//! Signals that davit receives, as a stream.

use std::io;

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

/// From when it is made on, signals do not end davit but come out of here.
#[derive(Debug)]
pub struct Signals {
    forwarded: [Signal; 6],
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
        let failed = || Error::io("cannot catch signals");
        let of = |number: Number| signal(SignalKind::from_raw(number as i32));
        let [a, b, c, d, e, f] = FORWARDED;
        let all = || -> io::Result<Self> {
            Ok(Self {
                forwarded: [of(a)?, of(b)?, of(c)?, of(d)?, of(e)?, of(f)?],
                resized: signal(SignalKind::window_change())?,
            })
        };
        all().map_err(failed())
    }

    /// The next one. Cancelling loses none.
    pub async fn next(&mut self) -> Received {
        let [a, b, c, d, e, f] = &mut self.forwarded;
        let index = tokio::select! {
            _ = a.recv() => 0,
            _ = b.recv() => 1,
            _ = c.recv() => 2,
            _ = d.recv() => 3,
            _ = e.recv() => 4,
            _ = f.recv() => 5,
            _ = self.resized.recv() => return Received::Resized,
        };
        Received::Forward(FORWARDED[index] as u32)
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
