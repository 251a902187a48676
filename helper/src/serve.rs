//! One caller, one packet at a time.

use crate::answer;
use crate::audit::Audit;
use crate::table::{self, Caller};
use banger_wire::helper::{MAX_MESSAGE, Reply, Request};
use rustix::net::sockopt::{socket_peercred, socket_type};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// More than any operation takes, so that too many are seen as such.
const MAX_DESCRIPTORS: usize = 24;

/// Serves the caller on standard input until it is gone.
pub(crate) fn run() -> io::Result<()> {
    let socket = rustix::stdio::stdin();
    if socket_type(socket)? != SocketType::SEQPACKET {
        return Err(io::Error::other("standard input is not the socket of a banger daemon"));
    }
    let mut caller = Caller::new(socket_peercred(socket)?.uid.as_raw());
    let mut audit = Audit::open(caller.uid);
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
        caller.collect();
        if message.bytes == 0 {
            return Ok(());
        }
        let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if cut || message.bytes > MAX_MESSAGE {
            let reply = Reply::Refused { rule: "the message is too long".into() };
            audit.note(None, false, &reply, Duration::ZERO);
            return Err(io::Error::other("a message is too long"));
        }
        match serde_json::from_slice::<Request>(&buffer[..message.bytes]) {
            Ok(request) => {
                let begun = Instant::now();
                let said = table::run(&request, descriptors, &mut caller);
                let (reply, descriptor) = said.unwrap_or_else(|bad| (answer::reply(bad), None));
                let only_looks = table::only_looks(&request);
                audit.note(Some(&request), only_looks, &reply, begun.elapsed());
                answer(socket, &reply, descriptor.as_ref())?;
            }
            Err(error) => {
                let reply = Reply::Refused { rule: "the message is not understood".into() };
                audit.note(None, false, &reply, Duration::ZERO);
                answer(socket, &reply, None)?;
                return Err(io::Error::other(error));
            }
        }
    }
}

fn answer(socket: BorrowedFd<'_>, reply: &Reply, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(reply)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptor = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptor) = &descriptor {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptor));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
