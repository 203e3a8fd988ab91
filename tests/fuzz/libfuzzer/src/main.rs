//! One target under libFuzzer, chosen by `DAVIT_FUZZ_TARGET`; started by `run`.
//!
//! `run` passes the flags with which rustc's code tells libFuzzer where it has
//! been: `-Cpasses=sancov-module` and what LLVM needs for counters and
//! comparisons. They are stable flags, so that no nightly compiler is needed;
//! the address sanitizer, which would need one, finds little in code without
//! `unsafe`.

#![no_main]

use std::sync::OnceLock;

use davit_fuzz::{Target, target};

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("DAVIT_FUZZ_TARGET").expect("DAVIT_FUZZ_TARGET is set");
        target(&name).unwrap_or_else(|| panic!("there is no target called {name:?}"))
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (chosen().run)(data));
