//! The loop: it alone owns the state of every container of this shim, and
//! reacts to one event after the other. It waits for nothing but events; what
//! takes time is set going beside it and ends as another event.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use davit_protocols::ttrpc::events;
use davit_shim::{AfterShutdown, Context, Exit, Failure, Watch, task};
use davit_types::{ContainerId, ErrorKind};
use protobuf::MessageField;
use tokio::sync::mpsc;

use crate::container::Container;
use crate::create::{self, Made};
use crate::event::{Call, Event, Key, Outcome, Reply};

/// What containers need of their surroundings.
pub struct Shared {
    /// What the library has given the shim.
    pub context: Context,
    /// The way to the loop.
    pub events: mpsc::Sender<Event>,
}

impl Shared {
    /// Sets something going whose end is an event.
    pub fn spawn(&self, job: impl Future<Output = Event> + 'static) {
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            // Without the loop the shim is ending, and nobody will ask.
            let _ = events.send(job.await).await;
        });
    }

    /// Tells the loop when a process has exited.
    pub fn await_exit(&self, key: Key, exit: Watch) {
        self.spawn(async move { Event::Exited(key, exit.await) });
    }
}

/// A container, or the promise of one.
enum Slot {
    Creating(Box<Creation>),
    Live(Box<Container>),
}

/// A container that is being made.
struct Creation {
    request: task::CreateTaskRequest,
    /// Everybody who has asked for it: a call that timed out is made again.
    replies: Vec<Reply<task::CreateTaskResponse>>,
    /// Calls about it that came too early.
    waiting: Vec<Call>,
}

/// All containers of this shim.
pub struct Group {
    shared: Rc<Shared>,
    slots: BTreeMap<String, Slot>,
    count: Rc<Cell<usize>>,
}

impl Group {
    /// An empty group. `count` is kept at the number of its containers.
    pub fn new(context: Context, events: mpsc::Sender<Event>, count: Rc<Cell<usize>>) -> Self {
        Self { shared: Rc::new(Shared { context, events }), slots: BTreeMap::new(), count }
    }

    /// Reacts to events until there can be no more.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Event>) {
        while let Some(event) = queue.recv().await {
            self.handle(event);
            self.count.set(self.slots.len());
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Call(call) => self.call(*call),
            Event::Done(key, outcome) => match *outcome {
                Outcome::Created(result) => self.created(&key.container, result),
                outcome => self.with(&key.container, |c| c.done(&key, outcome)),
            },
            Event::Exited(key, exit) => self.exited(&key, exit),
            Event::Drained(key) => self.with(&key.container, |c| c.drained(&key)),
            Event::KilledRest(id) => self.with(&id, Container::killed_rest),
            Event::Oom(id) => self.with(&id, |c| c.publish_oom()),
            Event::Overdue(id) => self.with(&id, Container::overdue),
        }
    }

    /// Lets a container react, forgets it if it is gone after that, and takes
    /// up the calls that had to wait for what has just ended.
    fn with(&mut self, id: &str, react: impl FnOnce(&mut Container)) {
        let Some(Slot::Live(container)) = self.slots.get_mut(id) else { return };
        react(container);
        let ready = container.take_ready();
        if container.is_gone() {
            self.slots.remove(id);
            davit_sys::process::trim_heap();
        }
        for call in ready {
            self.call(call);
        }
    }

    fn exited(&mut self, key: &Key, exit: Exit) {
        log::debug!(container:% = key.container, exec:% = key.exec, pid:% = exit.pid, status = exit.status; "exit");
        self.with(&key.container, |container| container.exited(key, exit));
    }

    fn call(&mut self, call: Call) {
        match (self.slots.get_mut(call.container()), call) {
            (_, Call::Connect(request, reply)) => {
                let _ = reply.send(Ok(self.connect(&request)));
            }
            (_, Call::Shutdown(_, reply)) => {
                let left = !self.slots.is_empty();
                let _ =
                    reply.send(Ok(if left { AfterShutdown::Stay } else { AfterShutdown::Exit }));
            }
            (None, Call::Create(request, reply)) => self.create(request, reply),
            (None, call) => call.refuse(Failure::not_found("container not created")),
            (Some(Slot::Creating(creation)), Call::Create(request, reply)) => {
                if request == creation.request {
                    creation.replies.push(reply);
                } else {
                    let _ = reply.send(Err(already_exists(&request.id)));
                }
            }
            (Some(Slot::Creating(creation)), call) => creation.waiting.push(call),
            (Some(Slot::Live(container)), Call::Create(request, reply)) => {
                let answer = container.created_again(&request);
                let _ = reply.send(answer.ok_or_else(|| already_exists(&request.id)));
            }
            (Some(Slot::Live(_)), call) => {
                let id = call.container().to_owned();
                self.with(&id, |container| container.call(call));
            }
        }
    }

    fn connect(&self, request: &task::ConnectRequest) -> task::ConnectResponse {
        let task_pid = match self.slots.get(&request.id) {
            Some(Slot::Live(container)) => container.pid(),
            _ => 0,
        };
        task::ConnectResponse { shim_pid: std::process::id(), task_pid, ..Default::default() }
    }

    fn create(&mut self, request: task::CreateTaskRequest, reply: Reply<task::CreateTaskResponse>) {
        if let Err(error) = ContainerId::new(&request.id) {
            let _ = reply.send(Err(error.into()));
            return;
        }
        let key = Key::init(&request.id);
        let (context, wanted) = (self.shared.context.clone(), request.clone());
        let creation = Creation { request, replies: vec![reply], waiting: Vec::new() };
        self.slots.insert(key.container.clone(), Slot::Creating(Box::new(creation)));
        self.shared.spawn(async move {
            // On the heap: on its way into a task it would be copied from one
            // stack frame to the next, and stack is never given back.
            let made = Box::pin(create::create(wanted, context)).await;
            let outcome = Outcome::Created(made);
            Event::Done(key, Box::new(outcome))
        });
    }

    fn created(&mut self, id: &str, result: Result<Made, Failure>) {
        let Some(Slot::Creating(creation)) = self.slots.remove(id) else { return };
        let Creation { request, replies, waiting } = *creation;
        let answer = result.map(|made| {
            let pid = made.pid;
            self.publish_create(&request, pid);
            let container = Container::new(made, request, self.shared.clone());
            self.slots.insert(id.to_owned(), Slot::Live(Box::new(container)));
            task::CreateTaskResponse { pid, ..Default::default() }
        });
        for reply in replies {
            let _ = reply.send(answer.clone());
        }
        for call in waiting {
            self.call(call);
        }
    }

    fn publish_create(&self, request: &task::CreateTaskRequest, pid: u32) {
        let io = events::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        self.shared.context.publisher.publish(&events::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(io),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        });
    }
}

fn already_exists(id: &str) -> Failure {
    Failure::new(ErrorKind::AlreadyExists, format!("task {id}"))
}
