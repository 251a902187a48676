//! SFTP version 3 as bytes: what is in a packet, what goes into an answer, and why a request fails.
//!
//! draft-ietf-secsh-filexfer-02, and section 4 of OpenSSH's PROTOCOL.

use super::attributes::Attributes;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// OpenSSH's limits, which its client asks for (limits@openssh.com).
pub(super) const MAX_PACKET: usize = 256 << 10;
pub(super) const MAX_DATA: usize = MAX_PACKET - 1024;
pub(super) const MAX_HANDLES: usize = 1000;
/// Entries per READDIR reply.
pub(super) const MAX_NAMES: usize = 100;

pub(super) const FXP_INIT: u8 = 1;
pub(super) const FXP_VERSION: u8 = 2;
pub(super) const FXP_OPEN: u8 = 3;
pub(super) const FXP_CLOSE: u8 = 4;
pub(super) const FXP_READ: u8 = 5;
pub(super) const FXP_WRITE: u8 = 6;
pub(super) const FXP_LSTAT: u8 = 7;
pub(super) const FXP_FSTAT: u8 = 8;
pub(super) const FXP_SETSTAT: u8 = 9;
pub(super) const FXP_FSETSTAT: u8 = 10;
pub(super) const FXP_OPENDIR: u8 = 11;
pub(super) const FXP_READDIR: u8 = 12;
pub(super) const FXP_REMOVE: u8 = 13;
pub(super) const FXP_MKDIR: u8 = 14;
pub(super) const FXP_RMDIR: u8 = 15;
pub(super) const FXP_REALPATH: u8 = 16;
pub(super) const FXP_STAT: u8 = 17;
pub(super) const FXP_RENAME: u8 = 18;
pub(super) const FXP_READLINK: u8 = 19;
pub(super) const FXP_SYMLINK: u8 = 20;
pub(super) const FXP_STATUS: u8 = 101;
pub(super) const FXP_HANDLE: u8 = 102;
pub(super) const FXP_DATA: u8 = 103;
pub(super) const FXP_NAME: u8 = 104;
pub(super) const FXP_ATTRS: u8 = 105;
pub(super) const FXP_EXTENDED: u8 = 200;
pub(super) const FXP_EXTENDED_REPLY: u8 = 201;

pub(super) const FX_OK: u32 = 0;
pub(super) const FX_EOF: u32 = 1;
pub(super) const FX_NO_SUCH_FILE: u32 = 2;
pub(super) const FX_PERMISSION_DENIED: u32 = 3;
pub(super) const FX_FAILURE: u32 = 4;
pub(super) const FX_BAD_MESSAGE: u32 = 5;
pub(super) const FX_OP_UNSUPPORTED: u32 = 8;

pub(super) const ATTR_SIZE: u32 = 1;
pub(super) const ATTR_UIDGID: u32 = 2;
pub(super) const ATTR_PERMISSIONS: u32 = 4;
pub(super) const ATTR_ACMODTIME: u32 = 8;

pub(super) const OPEN_READ: u32 = 1;
pub(super) const OPEN_WRITE: u32 = 2;
pub(super) const OPEN_APPEND: u32 = 4;
pub(super) const OPEN_CREAT: u32 = 8;
pub(super) const OPEN_TRUNC: u32 = 16;
pub(super) const OPEN_EXCL: u32 = 32;

/// Why a request fails.
pub(super) enum Failure {
    Eof,
    BadMessage,
    Unsupported,
    Io(io::Error),
}

impl<E: Into<io::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Io(error.into())
    }
}

impl Failure {
    pub(super) fn status(&self) -> (u32, String) {
        match self {
            Failure::Eof => (FX_EOF, "End of file".into()),
            Failure::BadMessage => (FX_BAD_MESSAGE, "Bad message".into()),
            Failure::Unsupported => (FX_OP_UNSUPPORTED, "Operation unsupported".into()),
            #[expect(clippy::wildcard_enum_match_arm, reason = "most errors have one code here")]
            Failure::Io(error) => {
                let code = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FX_NO_SUCH_FILE,
                    io::ErrorKind::PermissionDenied => FX_PERMISSION_DENIED,
                    _ => FX_FAILURE,
                };
                (code, error.to_string())
            }
        }
    }
}

/// Takes a packet apart.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Failure> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Failure::BadMessage)?;
        self.0 = tail;
        Ok(head)
    }
    pub(super) fn u8(&mut self) -> Result<u8, Failure> {
        Ok(self.take(1)?[0])
    }
    pub(super) fn u32(&mut self) -> Result<u32, Failure> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Failure::BadMessage)?))
    }
    pub(super) fn u64(&mut self) -> Result<u64, Failure> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().map_err(|_| Failure::BadMessage)?))
    }
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Failure> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    pub(super) fn path(&mut self) -> Result<&'a Path, Failure> {
        match self.bytes()? {
            b"" => Ok(Path::new(".")),
            bytes => Ok(Path::new(OsStr::from_bytes(bytes))),
        }
    }
    pub(super) fn attributes(&mut self) -> Result<Attributes, Failure> {
        let flags = self.u32()?;
        let mut a = Attributes::default();
        if flags & ATTR_SIZE != 0 {
            a.size = Some(self.u64()?);
        }
        if flags & ATTR_UIDGID != 0 {
            a.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & ATTR_PERMISSIONS != 0 {
            a.mode = Some(self.u32()? & 0o7777);
        }
        if flags & ATTR_ACMODTIME != 0 {
            a.times = Some((self.u32()?, self.u32()?));
        }
        Ok(a)
    }
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

pub(super) fn begin(out: &mut Vec<u8>, kind: u8, id: u32) {
    out.push(kind);
    out.extend(id.to_be_bytes());
}

/// Replaces whatever a failed request had begun.
pub(super) fn put_status(out: &mut Vec<u8>, id: u32, code: u32, text: &str) {
    out.clear();
    begin(out, FXP_STATUS, id);
    out.extend(code.to_be_bytes());
    put_bytes(out, text.as_bytes());
    put_bytes(out, b"");
}

/// A NAME with one entry and no attributes.
pub(super) fn put_name(out: &mut Vec<u8>, id: u32, name: &OsStr) {
    begin(out, FXP_NAME, id);
    out.extend(1u32.to_be_bytes());
    put_bytes(out, name.as_bytes());
    put_bytes(out, name.as_bytes());
    out.extend(0u32.to_be_bytes());
}
