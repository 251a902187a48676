//! An SFTP server (version 3) on standard input and output: synchronous, with paths as the bytes that they are.
//!
//! It runs as the user who logged in, so it may do what that user may, and decides nothing.

mod attributes;
mod listing;
mod wire;

use attributes::{Attributes, put_metadata};
use listing::long_name;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wire::*;

const EXTENSIONS: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// Serves files on standard input and output.
pub(crate) fn run() -> io::Result<()> {
    serve(io::stdin().lock(), io::stdout().lock())
}

/// Serves requests until the input ends.
fn serve(input: impl Read, output: impl Write) -> io::Result<()> {
    let mut input = io::BufReader::with_capacity(MAX_PACKET, input);
    let mut output = io::BufWriter::with_capacity(MAX_PACKET, output);
    let mut server = Server::default();
    let mut packet = Vec::new();
    let mut reply = Vec::new();
    loop {
        // Answers go out when there is nothing more to do at once.
        if input.buffer().len() < 4 {
            output.flush()?;
        }
        let mut len = [0; 4];
        match input.read_exact(&mut len) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return output.flush(),
            other => other?,
        }
        let len = u32::from_be_bytes(len) as usize;
        if len == 0 || len > MAX_PACKET {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if input.buffer().len() < len {
            output.flush()?;
        }
        packet.resize(len, 0);
        input.read_exact(&mut packet)?;
        reply.clear();
        server.answer(&packet, &mut reply);
        output.write_all(&(reply.len() as u32).to_be_bytes())?;
        output.write_all(&reply)?;
    }
}

enum Open {
    File { file: File, append: bool },
    Dir { path: PathBuf, entries: fs::ReadDir, dots: usize },
}

#[derive(Default)]
struct Server {
    open: HashMap<u32, Open>,
    next: u32,
}

impl Server {
    /// Appends the reply, without its length, to `out`, which is empty.
    fn answer(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        let mut fields = Fields(packet);
        if packet[0] == FXP_INIT {
            out.push(FXP_VERSION);
            out.extend(3u32.to_be_bytes());
            for (name, version) in EXTENSIONS {
                put_bytes(out, name.as_bytes());
                put_bytes(out, version.as_bytes());
            }
            return;
        }
        let id = match (fields.u8(), fields.u32()) {
            (Ok(_), Ok(id)) => id,
            _ => 0,
        };
        if let Err(failure) = self.request(packet[0], id, &mut fields, out) {
            let (code, text) = failure.status();
            put_status(out, id, code, &text);
        }
    }

    fn request(
        &mut self,
        kind: u8,
        id: u32,
        fields: &mut Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match kind {
            FXP_OPEN => {
                let (path, flags) = (fields.path()?, fields.u32()?);
                let open = open_file(path, flags, &fields.attributes()?)?;
                return self.add(open, id, out);
            }
            FXP_OPENDIR => {
                let path = fields.path()?.to_owned();
                let entries = fs::read_dir(&path)?;
                return self.add(Open::Dir { path, entries, dots: 0 }, id, out);
            }
            FXP_CLOSE => {
                let handle = handle(fields)?;
                self.open.remove(&handle).ok_or(Failure::BadMessage)?;
            }
            FXP_READ => {
                let (file, offset) = (self.file(fields)?, fields.u64()?);
                let len = (fields.u32()? as usize).min(MAX_DATA);
                begin(out, FXP_DATA, id);
                let start = out.len() + 4;
                out.resize(start + len, 0);
                let mut got = 0;
                while got < len {
                    match file.read_at(&mut out[start + got..], offset + got as u64) {
                        Ok(0) => break,
                        Ok(n) => got += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(_) if got > 0 => break,
                        Err(e) => return Err(e.into()),
                    }
                }
                if got == 0 && len > 0 {
                    return Err(Failure::Eof);
                }
                out.truncate(start + got);
                out[start - 4..start].copy_from_slice(&(got as u32).to_be_bytes());
                return Ok(());
            }
            FXP_WRITE => {
                let (handle, offset, data) = (handle(fields)?, fields.u64()?, fields.bytes()?);
                match self.open.get(&handle) {
                    Some(Open::File { file, append: true }) => {
                        let mut file = file;
                        file.write_all(data)?;
                    }
                    Some(Open::File { file, append: false }) => file.write_all_at(data, offset)?,
                    _ => return Err(Failure::BadMessage),
                }
            }
            FXP_LSTAT | FXP_STAT | FXP_FSTAT => {
                let meta = match kind {
                    FXP_LSTAT => fs::symlink_metadata(fields.path()?)?,
                    FXP_STAT => fs::metadata(fields.path()?)?,
                    _ => self.file(fields)?.metadata()?,
                };
                begin(out, FXP_ATTRS, id);
                put_metadata(out, &meta);
                return Ok(());
            }
            FXP_SETSTAT => {
                let path = fields.path()?;
                fields.attributes()?.set(path)?;
            }
            FXP_FSETSTAT => {
                let file = self.file(fields)?;
                fields.attributes()?.set_open(file)?;
            }
            FXP_READDIR => return self.read_dir(handle(fields)?, id, out),
            FXP_REMOVE => fs::remove_file(fields.path()?)?,
            FXP_MKDIR => {
                let path = fields.path()?;
                let mode = fields.attributes()?.mode.unwrap_or(0o777);
                DirBuilder::new().mode(mode).create(path)?;
            }
            FXP_RMDIR => fs::remove_dir(fields.path()?)?,
            FXP_REALPATH => {
                put_name(out, id, real_path(fields.path()?)?.as_os_str());
                return Ok(());
            }
            FXP_RENAME => {
                // Version 3 must not replace anything.
                let (from, to) = (fields.path()?, fields.path()?);
                renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
            }
            FXP_READLINK => {
                put_name(out, id, fs::read_link(fields.path()?)?.as_os_str());
                return Ok(());
            }
            FXP_SYMLINK => {
                // The draft has it the other way round than everybody has.
                let (target, link) = (fields.bytes()?, fields.path()?);
                std::os::unix::fs::symlink(OsStr::from_bytes(target), link)?;
            }
            FXP_EXTENDED => {
                let name = fields.bytes()?;
                return self.extended(name, id, fields, out);
            }
            _ => return Err(Failure::Unsupported),
        }
        put_status(out, id, FX_OK, "Success");
        Ok(())
    }

    fn extended(
        &mut self,
        name: &[u8],
        id: u32,
        fields: &mut Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match name {
            b"posix-rename@openssh.com" => fs::rename(fields.path()?, fields.path()?)?,
            b"hardlink@openssh.com" => fs::hard_link(fields.path()?, fields.path()?)?,
            b"fsync@openssh.com" => self.file(fields)?.sync_all()?,
            b"lsetstat@openssh.com" => {
                let path = fields.path()?;
                fields.attributes()?.set_link(path)?;
            }
            b"statvfs@openssh.com" | b"fstatvfs@openssh.com" => {
                let s = match name[0] {
                    b'f' => rustix::fs::fstatvfs(self.file(fields)?)?,
                    _ => rustix::fs::statvfs(fields.path()?)?,
                };
                begin(out, FXP_EXTENDED_REPLY, id);
                // Of the flags only ST_RDONLY (1) and ST_NOSUID (2), as they are.
                let flags = s.f_flag.bits() & 3;
                for field in [
                    s.f_bsize,
                    s.f_frsize,
                    s.f_blocks,
                    s.f_bfree,
                    s.f_bavail,
                    s.f_files,
                    s.f_ffree,
                    s.f_favail,
                    s.f_fsid,
                    flags,
                    s.f_namemax,
                ] {
                    out.extend(field.to_be_bytes());
                }
                return Ok(());
            }
            b"limits@openssh.com" => {
                begin(out, FXP_EXTENDED_REPLY, id);
                for field in [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES] {
                    out.extend((field as u64).to_be_bytes());
                }
                return Ok(());
            }
            b"expand-path@openssh.com" => {
                let path = fields.bytes()?;
                let home = std::env::var_os("HOME").unwrap_or("/".into());
                let path = match path.strip_prefix(b"~") {
                    None => PathBuf::from(OsStr::from_bytes(path)),
                    Some(rest) => {
                        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
                        let (user, below) = rest.split_at(end);
                        let start = below.iter().position(|byte| *byte != b'/');
                        let below = &below[start.unwrap_or(below.len())..];
                        home_of(user, &home)?.join(OsStr::from_bytes(below))
                    }
                };
                put_name(out, id, real_path(&path)?.as_os_str());
                return Ok(());
            }
            _ => return Err(Failure::Unsupported),
        }
        put_status(out, id, FX_OK, "Success");
        Ok(())
    }

    fn add(&mut self, open: Open, id: u32, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.open.len() >= MAX_HANDLES {
            return Err(io::Error::other("too many open handles").into());
        }
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let handle = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(handle, open);
        begin(out, FXP_HANDLE, id);
        put_bytes(out, &handle.to_be_bytes());
        Ok(())
    }

    fn file(&self, fields: &mut Fields<'_>) -> Result<&File, Failure> {
        match self.open.get(&handle(fields)?) {
            Some(Open::File { file, .. }) => Ok(file),
            _ => Err(Failure::BadMessage),
        }
    }

    fn read_dir(&mut self, handle: u32, id: u32, out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(Open::Dir { path, entries, dots }) = self.open.get_mut(&handle) else {
            return Err(Failure::BadMessage);
        };
        begin(out, FXP_NAME, id);
        let count_at = out.len();
        out.extend([0; 4]);
        let mut count = 0u32;
        while (count as usize) < MAX_NAMES {
            let (name, meta) = if let Some(name) = [".", ".."].get(*dots) {
                *dots += 1;
                (OsString::from(name), fs::metadata(path.join(name)))
            } else {
                match entries.next().transpose()? {
                    // The name may be gone by now.
                    Some(entry) => (entry.file_name(), entry.metadata()),
                    None => break,
                }
            };
            let Ok(meta) = meta else { continue };
            put_bytes(out, name.as_bytes());
            put_bytes(out, &long_name(&name, &meta));
            put_metadata(out, &meta);
            count += 1;
        }
        if count == 0 {
            return Err(Failure::Eof);
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }
}

fn handle(fields: &mut Fields<'_>) -> Result<u32, Failure> {
    Ok(u32::from_be_bytes(fields.bytes()?.try_into().map_err(|_| Failure::BadMessage)?))
}

fn open_file(path: &Path, flags: u32, attributes: &Attributes) -> Result<Open, Failure> {
    let set = |flag| flags & flag != 0;
    // OpenOptions refuses some combinations that open(2) has: EXCL without
    // CREAT means nothing, TRUNC without WRITE is left out.
    let create = set(OPEN_CREAT) && set(OPEN_WRITE);
    let append = set(OPEN_APPEND) && set(OPEN_WRITE);
    let file = OpenOptions::new()
        .read(set(OPEN_READ) || !set(OPEN_WRITE))
        .write(set(OPEN_WRITE) && !append)
        .append(append)
        .create(create && !set(OPEN_EXCL))
        .create_new(create && set(OPEN_EXCL))
        .truncate(set(OPEN_TRUNC) && set(OPEN_WRITE) && !append)
        .mode(attributes.mode.unwrap_or(0o666))
        .open(path)?;
    Ok(Open::File { file, append })
}

/// The home of a user; without a name that of whoever logged in.
fn home_of(user: &[u8], own: &OsStr) -> Result<PathBuf, Failure> {
    if user.is_empty() {
        return Ok(PathBuf::from(own));
    }
    let name = std::str::from_utf8(user).map_err(|_| Failure::BadMessage)?;
    let found = crate::users::find(Some(name)).map_err(io::Error::other)?;
    Ok(PathBuf::from(found.home))
}

/// Absolute; the last component need not exist.
fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return Ok(other?),
    }
    let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
    let parent = match path.parent() {
        None => Path::new("/"),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    Ok(fs::canonicalize(parent)?.join(name))
}
