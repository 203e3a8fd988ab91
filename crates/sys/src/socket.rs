//! Unix sockets: passing descriptors, and who is at the other end.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, getsockopt, recvmsg, sendmsg, sockopt,
};

use crate::{Error, Result};

/// The most descriptors that one message may bring. More are closed.
pub const DESCRIPTORS_MAX: usize = 16;

/// Who connected, as the kernel recorded it at connect time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id in our namespace, 0 when not visible.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

impl Peer {
    /// Whether the peer is root or runs as the same user as we do; nobody
    /// else has business on our sockets.
    pub fn is_trusted(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}

/// Who is at the other end of a connected Unix socket (`SO_PEERCRED`).
///
/// # Errors
/// When it is no Unix socket.
pub fn peer(socket: impl AsFd) -> Result<Peer> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials)
        .map_err(|e| Error::call("getsockopt SO_PEERCRED", e))?;
    Ok(Peer { pid: credentials.pid() as u32, uid: credentials.uid(), gid: credentials.gid() })
}

/// Sends bytes and descriptors in one message (`SCM_RIGHTS`).
///
/// # Errors
/// The system's; a message that was sent in part is an error.
pub fn send_descriptors(socket: impl AsFd, bytes: &[u8], fds: &[impl AsFd]) -> Result<()> {
    let raw: Vec<_> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let sent = sendmsg::<UnixAddr>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|e| Error::call("sendmsg", e))?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(Error::call("sendmsg", io::Error::from(io::ErrorKind::WriteZero))),
    }
}

/// Receives one message with its descriptors, all close-on-exec: the number
/// of bytes put into `buffer`, and the descriptors. Zero bytes: the peer has
/// closed. Does not wait when the socket is non-blocking.
///
/// # Errors
/// The system's, `WouldBlock` among them; and a message with more than
/// [`DESCRIPTORS_MAX`] descriptors, all of which are closed.
pub fn receive_descriptors(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(|e| Error::call("recvmsg", e))?;
    let mut fds = Vec::new();
    let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
    for control in message.cmsgs().map_err(|e| Error::call("recvmsg", e))? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel installed these descriptors for this call;
            // nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    match truncated {
        true => Err(Error::Unsupported("more descriptors in one message than we accept")),
        false => Ok((message.bytes, fds)),
    }
}
