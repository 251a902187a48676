//! Whose an installation's interfaces are. Their names have room for few letters of its id, and rules go by them: who uses such
//! letters first has them, until its rules are gone. A link says whose they are: it is made whole, or not at all.

use crate::answer::{At, Bad};
use crate::jail;
use crate::table::Caller;
use banger_wire::derive;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// How many installations of one owner may have a network.
const MAX: usize = 16;

fn of(caller: &Caller) -> Result<(PathBuf, String), Bad> {
    let install = caller.install()?;
    let place = jail::folder("names")?.join(derive::tap_prefix(install));
    Ok((place, format!("{}-{install}", caller.uid)))
}

/// Takes the caller's letters, or finds that they are its.
pub(crate) fn take(caller: &Caller) -> Result<(), Bad> {
    let (place, own) = of(caller)?;
    let all = place.parent().unwrap_or(&place);
    let lock = File::open(all).at("opening the folder of names")?;
    flock(&lock, FlockOperation::LockExclusive).at("locking the names")?;
    match fs::read_link(&place) {
        Ok(whose) if whose.as_os_str() == own.as_str() => return Ok(()),
        Ok(_) => return Err(Bad::Refused("interfaces of such names are another installation's")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Bad::Failed("looking whose a name is", error)),
    }
    let before = format!("{}-", caller.uid);
    let is_own = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|whose| whose.to_string_lossy().starts_with(&before))
    };
    let taken = fs::read_dir(all).at("looking at the names")?.flatten();
    if taken.filter(is_own).count() >= MAX {
        return Err(Bad::Refused("there are too many installations with a network"));
    }
    symlink(&own, &place).at("taking a name")
}

/// Gives the caller's letters back.
pub(crate) fn give_back(caller: &Caller) -> Result<(), Bad> {
    let (place, own) = of(caller)?;
    match fs::read_link(&place) {
        Ok(whose) if whose.as_os_str() == own.as_str() => {
            fs::remove_file(&place).at("giving a name back")
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Bad::Failed("looking whose a name is", error)),
    }
}
