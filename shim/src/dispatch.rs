//! From a call's service and method to the author's code and back.

use std::future::Future;
use std::rc::Rc;

use davit_protocols::ttrpc::server::{Call, Status};
use davit_protocols::ttrpc::task;
use davit_types::ErrorKind;
use protobuf::Message;

use crate::shim::AfterShutdown;
use crate::{Failure, Shim};

/// The task service's two names. The messages of both are the same bytes.
const TASK_SERVICES: [&str; 2] = ["containerd.task.v3.Task", "containerd.task.v2.Task"];

/// What the server has to do after an answer has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    Nothing,
    /// A process was started or forgotten: heap may have become free.
    Settle,
    /// The last container is gone.
    Exit,
}

/// Runs one call.
pub(crate) async fn dispatch<S: Shim>(shim: Rc<S>, call: Call) -> (Result<Vec<u8>, Status>, After) {
    if !TASK_SERVICES.contains(&call.service.as_str()) {
        let result = match shim.other(&call.service, &call.method, call.payload) {
            Some(future) => future.await.map_err(Status::from),
            None => Err(Status::unknown_service(&call.service)),
        };
        return (result, After::Nothing);
    }
    let after = match call.method.as_str() {
        "Create" | "Start" | "Delete" | "Exec" => After::Settle,
        "Shutdown" => return shutdown(&*shim, &call.payload).await,
        _ => After::Nothing,
    };
    (task_call(&*shim, call).await, after)
}

async fn task_call<S: Shim>(shim: &S, call: Call) -> Result<Vec<u8>, Status> {
    let payload = &call.payload;
    match call.method.as_str() {
        "State" => answer(payload, |request| shim.state(request)).await,
        "Create" => answer(payload, |request| shim.create(request)).await,
        "Start" => answer(payload, |request| shim.start(request)).await,
        "Delete" => answer(payload, |request| shim.delete(request)).await,
        "Pids" => answer(payload, |request| shim.pids(request)).await,
        "Pause" => empty(payload, |request| shim.pause(request)).await,
        "Resume" => empty(payload, |request| shim.resume(request)).await,
        "Checkpoint" => empty(payload, |request| shim.checkpoint(request)).await,
        "Kill" => empty(payload, |request| shim.kill(request)).await,
        "Exec" => empty(payload, |request| shim.exec(request)).await,
        "ResizePty" => empty(payload, |request| shim.resize_pty(request)).await,
        "CloseIO" => empty(payload, |request| shim.close_io(request)).await,
        "Update" => empty(payload, |request| shim.update(request)).await,
        "Stats" => answer(payload, |request| shim.stats(request)).await,
        "Connect" => answer(payload, |request| shim.connect(request)).await,
        "Wait" => tokio::select! {
            result = answer(payload, |request: task::WaitRequest| shim.wait(request)) => result,
            () = call.caller.gone() => Err(Status::new(ErrorKind::Canceled, "context canceled")),
        },
        method => Err(Status::unknown_method(method)),
    }
}

async fn shutdown<S: Shim>(shim: &S, payload: &[u8]) -> (Result<Vec<u8>, Status>, After) {
    let mut after = AfterShutdown::Stay;
    let result = empty(payload, async |request: task::ShutdownRequest| {
        after = shim.shutdown(request).await?;
        Ok(())
    })
    .await;
    match after {
        AfterShutdown::Exit => (result, After::Exit),
        AfterShutdown::Stay => (result, After::Nothing),
    }
}

/// Decodes, calls, encodes.
async fn answer<Q: Message, A: Message, F>(
    payload: &[u8],
    method: impl FnOnce(Q) -> F,
) -> Result<Vec<u8>, Status>
where
    F: Future<Output = Result<A, Failure>>,
{
    let request = Q::parse_from_bytes(payload).map_err(|e| Status::bad_payload(&e))?;
    let answer = method(request).await.map_err(Status::from)?;
    answer.write_to_bytes().map_err(|e| Status::new(ErrorKind::Internal, e.to_string()))
}

/// As [`answer`], for methods that answer with `google.protobuf.Empty`.
async fn empty<Q: Message, F>(
    payload: &[u8],
    method: impl FnOnce(Q) -> F,
) -> Result<Vec<u8>, Status>
where
    F: Future<Output = Result<(), Failure>>,
{
    let request = Q::parse_from_bytes(payload).map_err(|e| Status::bad_payload(&e))?;
    method(request).await.map_err(Status::from)?;
    Ok(Vec::new())
}
