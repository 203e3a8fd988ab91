//! The unpack worker as a program of its own, for daemons other than
//! `davitd`, which starts itself again instead.

use std::process::ExitCode;

fn main() -> ExitCode {
    davit_diff::worker::main()
}
