//! One container: its init, its execs, and how it answers calls about them.
//! [`requests`] has what calls do, [`lifecycle`] what becomes of it.

mod lifecycle;
mod requests;

use std::collections::BTreeMap;
use std::rc::Rc;

use davit_protocols::ttrpc::events;
use davit_shim::{Failure, task};
use davit_sys::cgroup::Cgroup;

use crate::create::{self, Made, Restore};
use crate::event::{Call, Key, Reply};
use crate::fixed::Fixed;
use crate::group::Shared;
use crate::oom::OomMonitor;
use crate::process::Process;
use crate::state::{self, Operation, State};

/// A container that exists.
pub struct Container {
    shared: Rc<Shared>,
    fixed: Rc<Fixed>,
    request: task::CreateTaskRequest,
    init: Process,
    execs: BTreeMap<String, Exec>,
    restore: Option<Restore>,
    cgroup: Option<Cgroup>,
    oom: Option<OomMonitor>,
    shares_pid_namespace: bool,
    /// What still keeps the init's exit from being published.
    ending: Ending,
    /// Who is told when an init that was deleted before its start is gone.
    deleting: Option<Reply<task::DeleteResponse>>,
    ready: Vec<Call>,
    gone: bool,
}

/// A process beside the init.
struct Exec {
    process: Process,
    /// The OCI `Process`, as JSON.
    spec: Vec<u8>,
}

/// What happens between an init's exit and its publication.
#[derive(Default)]
struct Ending {
    /// The rest of the container is being killed.
    killing: bool,
    /// The terminal's output is on its way.
    draining: bool,
}

impl Container {
    /// A container that has just been made by `request`.
    pub fn new(made: Made, request: task::CreateTaskRequest, shared: Rc<Shared>) -> Self {
        let state = if made.restore.is_some() { State::Restorable } else { State::Created };
        if let Some(exit) = made.exit {
            shared.await_exit(Key::init(&request.id), exit);
        }
        Self {
            init: Process::new(state, made.pid, create::streams(&request), made.io),
            shared,
            fixed: made.fixed,
            request,
            execs: BTreeMap::new(),
            restore: made.restore,
            cgroup: made.cgroup,
            oom: None,
            shares_pid_namespace: made.shares_pid_namespace,
            ending: Ending::default(),
            deleting: None,
            ready: Vec::new(),
            gone: false,
        }
    }

    /// The init's process id.
    pub fn pid(&self) -> u32 {
        self.init.pid
    }

    /// The answer to a Create that was made again because nobody had heard
    /// the first answer: the same, as long as nothing else has happened.
    pub fn created_again(
        &self,
        request: &task::CreateTaskRequest,
    ) -> Option<task::CreateTaskResponse> {
        let untouched = matches!(self.init.state, State::Created | State::Restorable)
            && self.init.in_flight.is_none()
            && self.init.exit.is_none();
        (untouched && *request == self.request)
            .then(|| task::CreateTaskResponse { pid: self.init.pid, ..Default::default() })
    }

    /// Calls that can be taken up again.
    pub fn take_ready(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.ready)
    }

    /// Whether it has been deleted.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn process(&mut self, key: &Key) -> Option<&mut Process> {
        if key.is_init() {
            Some(&mut self.init)
        } else {
            self.execs.get_mut(&key.exec).map(|exec| &mut exec.process)
        }
    }

    /// Takes a call, or lets it wait for what is under way.
    pub fn call(&mut self, call: Call) {
        let key = call.key();
        let Some(process) = self.process(&key) else {
            call.refuse(Failure::not_found(format!("process does not exist {}", key.exec)));
            return;
        };
        let Some(operation) = operation(&call) else { return self.answer(call) };
        if process.in_flight.is_some() {
            process.waiting.push(call);
        } else if let Err(refusal) = state::admit(process.state, operation) {
            call.refuse(refusal);
        } else {
            process.in_flight = Some(operation);
            self.begin(&key, call);
        }
    }

    /// An operation on a process has ended: calls that waited are ready.
    fn end_flight(&mut self, key: &Key) {
        if let Some(process) = self.process(key) {
            process.in_flight = None;
            let waiting = std::mem::take(&mut process.waiting);
            self.ready.extend(waiting);
        }
    }

    fn publish<E: davit_shim::events::Event>(&self, event: &E) {
        self.shared.context.publisher.publish(event);
    }

    /// Publishes that processes were killed for want of memory, if any were
    /// since the last time.
    pub fn publish_oom(&mut self) {
        if self.oom.as_ref().is_some_and(OomMonitor::has_killed) {
            self.publish(&events::TaskOOM {
                container_id: self.fixed.id.clone(),
                ..Default::default()
            });
        }
    }
}

/// What the call does that depends on the state and takes time: one such
/// operation at a time per process. `None`: the call is answered at once, or
/// goes beside whatever is under way, as a signal has to.
fn operation(call: &Call) -> Option<Operation> {
    match call {
        Call::Start(..) => Some(Operation::Start),
        Call::Delete(..) => Some(Operation::Delete),
        Call::Pause(..) => Some(Operation::Pause),
        Call::Resume(..) => Some(Operation::Resume),
        Call::Update(..) => Some(Operation::Update),
        Call::Checkpoint(..) => Some(Operation::Checkpoint),
        _ => None,
    }
}
