//! The one place of the helper with `unsafe`: what the kernel offers for taps only as an ioctl, and what a process that is
//! about to become another does to itself.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::ioctl::{IntegerSetter, Updater, ioctl, opcode};
use rustix::thread::UnshareFlags;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// `struct ifreq`, as far as taps use it: a name and flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETOWNER: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 204);
const TUNSETPERSIST: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 203);

/// Opens the tap of this name, and makes it when it is not there.
pub(crate) fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let tun =
        open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        rest: [0; 22],
    };
    if name.len() >= request.name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` of 40 bytes, which is what it is given; the name ends
    // with a zero because it is shorter than its field.
    unsafe {
        ioctl(tun.as_fd(), Updater::<{ TUNSETIFF }, InterfaceRequest>::new(&mut request))?;
    }
    Ok(tun)
}

/// Lets only this user attach to a tap. Without an owner anybody could who may open `/dev/net/tun`.
pub(crate) fn own_tap(tap: &OwnedFd, uid: u32) -> io::Result<()> {
    let uid = usize::try_from(uid).map_err(io::Error::other)?;
    // SAFETY: TUNSETOWNER takes its argument by value and touches no memory of ours.
    unsafe { Ok(ioctl(tap.as_fd(), IntegerSetter::<{ TUNSETOWNER }>::new_usize(uid))?) }
}

/// Lets a tap stay when its last descriptor is closed.
pub(crate) fn keep_tap(tap: &OwnedFd) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value and touches no memory of ours.
    unsafe { Ok(ioctl(tap.as_fd(), IntegerSetter::<{ TUNSETPERSIST }>::new_usize(1))?) }
}

/// Gives this process mounts and messages of its own, and a network with nothing in it where that is asked for. Only for a
/// process of one thread.
pub(crate) fn own_namespaces(network: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC;
    flags.set(UnshareFlags::NEWNET, network);
    // SAFETY: new namespaces share the descriptors as before; nothing of memory safety depends on which paths and addresses lead
    // where, and no other thread is there to be surprised.
    unsafe { Ok(rustix::thread::unshare_unsafe(flags)?) }
}

/// Lets a descriptor, whoever's it is, end with this program. One that is not open is no error.
pub(crate) fn close_on_exec(descriptor: RawFd) {
    // SAFETY: the descriptor is neither closed nor read, and a number that is none only gives an error.
    let _ = fcntl_setfd(unsafe { BorrowedFd::borrow_raw(descriptor) }, FdFlags::CLOEXEC);
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);
