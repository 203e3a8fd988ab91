//! Unix sockets: passing descriptors, and who is at the other end.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, getsockopt, recvmsg, sendmsg, sockopt,
};

use crate::{Error, Result};

/// The most descriptors that one message may bring. More are closed.
pub const DESCRIPTORS_MAX: usize = 16;

/// The most that the kernel passes in one message (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;

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
    // Room for as many as the kernel passes at all: descriptors of a message
    // that was cut short would be ours without our knowing them.
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; SCM_MAX_FD]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(|e| Error::call("recvmsg", e))?;
    let mut fds = Vec::new();
    for control in message.cmsgs().map_err(|e| Error::call("recvmsg", e))? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel installed these descriptors for this call;
            // nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    match fds.len() > DESCRIPTORS_MAX {
        true => Err(Error::Unsupported("more descriptors in one message than we accept")),
        false => Ok((message.bytes, fds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_arrive_with_their_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send_descriptors(&ours, b"pty0", &[&writer]).unwrap();
        drop(writer);
        let mut buffer = [0; 64];
        let (count, fds) = receive_descriptors(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..count], fds.len()), (&b"pty0"[..], 1));
        for fd in fds {
            File::from(fd).write_all(b"through").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(ours);
        assert_eq!(receive_descriptors(&theirs, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let many: Vec<_> = (0..DESCRIPTORS_MAX + 4).map(|_| writer.try_clone().unwrap()).collect();
        send_descriptors(&ours, b"x", &many).unwrap();
        receive_descriptors(&theirs, &mut [0; 8]).unwrap_err();
        drop((many, writer));
        // Nobody holds a write end any more.
        let mut end = Vec::new();
        (&reader).read_to_end(&mut end).unwrap();
        assert!(end.is_empty());
    }

    #[test]
    fn non_blocking_sockets_do_not_wait() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let error = receive_descriptors(&ours, &mut [0; 8]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EAGAIN));
    }

    #[test]
    fn peers_are_known() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = peer(&ours).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.is_trusted());
        assert!(!Peer { uid: 65_534, ..peer }.is_trusted());
        assert!(super::peer(File::open("/dev/null").unwrap()).is_err());
    }
}
