//! One caller, one packet at a time.

use crate::answer;
use crate::table::{self, Caller};
use banger_wire::helper::{MAX_MESSAGE, Reply, Request};
use rustix::net::sockopt::{socket_peercred, socket_type};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketType,
    recvmsg, send,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// More than any operation takes, so that too many are seen as such.
const MAX_DESCRIPTORS: usize = 8;

/// Serves the caller on standard input until it is gone.
pub(crate) fn run() -> io::Result<()> {
    let socket = rustix::stdio::stdin();
    if socket_type(socket)? != SocketType::SEQPACKET {
        return Err(io::Error::other("standard input is not the socket of a banger daemon"));
    }
    let mut caller = Caller { uid: socket_peercred(socket)?.uid.as_raw(), agreed: false };
    let mut buffer = vec![0u8; MAX_MESSAGE + 1];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        // Taken in any case, so that what does not belong is closed.
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|part| {
                if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                    Some(descriptors)
                } else {
                    None
                }
            })
            .flatten()
            .collect();
        if message.bytes == 0 {
            return Ok(());
        }
        let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if cut || message.bytes > MAX_MESSAGE {
            return Err(io::Error::other("a message is too long"));
        }
        let reply = match serde_json::from_slice::<Request>(&buffer[..message.bytes]) {
            Ok(request) => answer::reply(table::run(&request, descriptors, &mut caller)),
            Err(error) => {
                answer(socket, &Reply::Refused { rule: "the message is not understood".into() })?;
                return Err(io::Error::other(error));
            }
        };
        answer(socket, &reply)?;
    }
}

fn answer(socket: rustix::fd::BorrowedFd<'_>, reply: &Reply) -> io::Result<()> {
    let bytes = serde_json::to_vec(reply)?;
    send(socket, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}
