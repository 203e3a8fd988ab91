//! A terminal that the test holds the other end of: it types, reads what is
//! shown, changes the size, and looks at the modes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::wait_for;

/// A program on a terminal of its own.
pub struct OnTerminal {
    master: File,
    slave: File,
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl OnTerminal {
    /// Starts a program on a terminal of so many columns and rows, which
    /// controls the program's session.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("/dev/ptmx is there");
        grantpt(&master).expect("a new terminal");
        unlockpt(&master).expect("a new terminal");
        let name = ptsname(&master, Vec::new()).expect("a new terminal");
        let path = name.to_str().expect("its name is ASCII").to_owned();
        let slave = OpenOptions::new().read(true).write(true).open(path).expect("unlocked");
        let master = File::from(master);
        set_size(&master, columns, rows);
        let own = || slave.try_clone().expect("a descriptor can be duplicated");
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session.stdin(own()).stdout(own()).stderr(own()).spawn();
        let child = child.expect("setsid is part of util-linux");
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, sink) = (master.try_clone().expect("as above"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                sink.lock()
                    .expect("nobody panics with it")
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { master, slave, child, shown }
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        set_size(&self.master, columns, rows);
    }

    /// All that was shown so far.
    pub fn text(&self) -> String {
        self.shown.lock().expect("nobody panics with it").replace('\r', "")
    }

    /// Waits until `wanted` is shown.
    ///
    /// # Panics
    /// When that takes longer than half a minute; the message has what was shown.
    pub fn expect(&mut self, wanted: &str) {
        let shown = Arc::clone(&self.shown);
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(wanted, 30, || {
                last = shown.lock().expect("nobody panics with it").replace('\r', "");
                last.contains(wanted).then_some(())
            })
        }));
        assert!(found.is_ok(), "{wanted:?} is not shown:\n{last}");
    }

    /// The process id of the program.
    pub fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a pid fits")
    }

    /// Whether the terminal edits lines and echoes, as it does by default.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.slave).expect("it is a terminal").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits until the program has ended.
    ///
    /// # Panics
    /// When that takes longer than half a minute.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the program on the terminal ends", 30, || child.try_wait().expect("our child"))
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("it is a terminal");
}
