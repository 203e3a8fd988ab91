//! The same suite against every runtime: this machine's runc and crun, and the
//! later runc, crun and runsc of the tree that `make test-setup` makes. As
//! root; real containers with a root file system of busybox.
#![allow(clippy::unwrap_used)]

mod common;
mod suite {
    pub mod answers;
    pub mod errors;
    pub mod lifecycle;
    pub mod streams;
}

use suite::*;

macro_rules! suite {
    ($($runtime:ident: $($area:ident::{$($test:ident),* $(,)?})*;)*) => {
        $(mod $runtime {
            $($(
                #[test]
                fn $test() {
                    crate::common::with_bed(stringify!($runtime), crate::$area::$test);
                }
            )*)*
        })*
    };
}

macro_rules! all_tests {
    ($($runtime:ident),*) => {
        suite! {$(
            $runtime:
            lifecycle::{
                from_create_to_delete, a_created_container_can_be_deleted, run_returns_the_exit_code,
                run_detached, exec_returns_the_exit_code, exec_detached_writes_its_pid,
                pause_and_resume, update_changes_limits, checkpoint_and_restore,
                a_sealed_copy_is_run_in_place,
            }
            streams::{
                streams_are_the_callers, a_terminal_arrives, exec_has_a_terminal,
                descriptors_are_preserved, the_log_is_kept,
            }
            answers::{version_and_features, list_and_ps, statistics_and_events}
            errors::{
                what_does_not_exist, what_exists, wrong_states, wrong_arguments, wrong_programs,
                broken_bundles, a_missing_bundle_is_told_without_stderr, out_of_time_leaves_nothing,
                cancelling_kills_and_reaps, a_cancelled_exec_leaves_no_process,
            }
        ;)*}
    };
}

all_tests!(runc, crun, newer_runc, newer_crun, newer_runsc);
