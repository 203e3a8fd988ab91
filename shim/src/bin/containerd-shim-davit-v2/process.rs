//! One process of a container, an init or an exec, as the loop keeps it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use davit_shim::{Exit, task};
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::event::{Call, Reply};
use crate::state::{Operation, State};
use crate::stdio::{Io, Request};

/// Go's zero time, which clients take for "never": year 1, January 1.
const NEVER_SECONDS: i64 = -62_135_596_800;

/// A process.
pub struct Process {
    /// Where it is in its life.
    pub state: State,
    /// The operation that is under way. Others that depend on the state wait
    /// until it has ended, in `waiting`.
    pub in_flight: Option<Operation>,
    /// Calls that wait, in the order of their coming; no more than the server
    /// takes at once.
    pub waiting: Vec<Call>,
    /// The process id; 0 before there is one.
    pub pid: u32,
    /// What the client asked for of its streams.
    pub streams: Request,
    /// What the shim holds of them.
    pub io: Io,
    /// How it ended, once it has been collected. Clients see it when the state
    /// is [`State::Stopped`].
    pub exit: Option<Exit>,
    /// Whether it was an exec that could not be started.
    pub failed: bool,
    waiters: Vec<Reply<task::WaitResponse>>,
}

impl Process {
    /// A process that is to be started.
    pub fn new(state: State, pid: u32, streams: Request, io: Io) -> Self {
        Self {
            state,
            in_flight: None,
            waiting: Vec::new(),
            pid,
            streams,
            io,
            exit: None,
            failed: false,
            waiters: Vec::new(),
        }
    }

    /// Whether it runs, or is about to, as far as anybody has been told.
    pub fn is_live(&self) -> bool {
        self.state == State::Running || self.in_flight == Some(Operation::Start)
    }

    /// Whether it exists and has not exited.
    pub fn is_alive(&self) -> bool {
        self.pid != 0 && self.exit.is_none() && davit_sys::process::is_living_child(self.pid)
    }

    /// Its exit, as far as clients may know of it: status and time.
    pub fn published_exit(&self) -> (u32, MessageField<Timestamp>) {
        match (self.state, self.exit) {
            (State::Stopped, Some(exit)) => (exit.status, timestamp(exit.at)),
            _ => (0, never()),
        }
    }

    /// Answers now, or when the exit is published.
    pub fn wait(&mut self, reply: Reply<task::WaitResponse>) {
        if self.state == State::Stopped || self.failed {
            let _ = reply.send(Ok(self.wait_response()));
        } else {
            self.waiters.retain(|waiter| !waiter.is_closed());
            self.waiters.push(reply);
        }
    }

    /// Answers everybody who waits for the exit.
    pub fn wake_waiters(&mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            let _ = waiter.send(Ok(self.wait_response()));
        }
    }

    /// Takes the waiting calls that ask for what has just been done: callers
    /// who timed out and have asked again. They get the same answer.
    pub fn take_repeated_starts(&mut self) -> Vec<Reply<task::StartResponse>> {
        let is_start = |call: &mut Call| matches!(call, Call::Start(..));
        let starts = self.waiting.extract_if(.., is_start);
        starts
            .filter_map(|call| if let Call::Start(_, reply) = call { Some(reply) } else { None })
            .collect()
    }

    /// The same for Delete.
    pub fn take_repeated_deletes(&mut self) -> Vec<Reply<task::DeleteResponse>> {
        let is_delete = |call: &mut Call| matches!(call, Call::Delete(..));
        let deletes = self.waiting.extract_if(.., is_delete);
        deletes
            .filter_map(|call| if let Call::Delete(_, reply) = call { Some(reply) } else { None })
            .collect()
    }

    fn wait_response(&self) -> task::WaitResponse {
        let (exit_status, exited_at) = self.published_exit();
        task::WaitResponse { exit_status, exited_at, ..Default::default() }
    }

    /// The answer to Delete.
    pub fn delete_response(&self) -> task::DeleteResponse {
        let (exit_status, exited_at) = self.published_exit();
        task::DeleteResponse { pid: self.pid, exit_status, exited_at, ..Default::default() }
    }
}

/// A time as events and answers carry it.
pub fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    MessageField::some(Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    })
}

/// The time of what has not happened.
pub fn never() -> MessageField<Timestamp> {
    MessageField::some(Timestamp { seconds: NEVER_SECONDS, ..Default::default() })
}
