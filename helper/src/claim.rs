//! Whose an installation's interfaces are. Their names have room for few letters of its id, and rules go by names: whoever has
//! rules or interfaces with such letters has them, and nobody else makes any.

use crate::answer::{At, Bad};
use crate::netlink::Netlink;
use crate::table::Caller;
use crate::{jail, rules};
use banger_wire::derive;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;

/// How many installations of one owner may have rules.
const MAX: usize = 16;

/// Finds that the caller's letters are nobody else's. While the answer is held, nobody else takes any.
pub(crate) fn take(netlink: &Netlink, caller: &Caller) -> Result<File, Bad> {
    let lock = File::options().create(true).append(true).open(jail::base()?.join("names.lock"));
    let lock = lock.at("opening the lock of names")?;
    flock(&lock, FlockOperation::LockExclusive).at("locking the names")?;
    let install = caller.install()?;
    let taps = derive::tap_prefix(install);
    let letters = taps.trim_start_matches(derive::TAP);
    let own = derive::table(caller.uid, install);
    let others = rules::all()?.into_iter().filter(|table| *table != own).collect::<Vec<_>>();
    let links = netlink.links().at("looking at interfaces")?;
    let own_alias = derive::alias(caller.uid, install, None);
    let is_others = |name: &str, alias: &str| {
        let like_ours =
            name.starts_with(&taps) || name.starts_with(derive::BRIDGE) && name.ends_with(letters);
        // One without any is half made, by whoever has the letters.
        like_ours && !alias.is_empty() && !alias.starts_with(&own_alias)
    };
    if others.iter().any(|table| table.ends_with(letters))
        || links.iter().any(|link| is_others(&link.name, &link.alias))
    {
        return Err(Bad::Refused("interfaces of such names are another installation's"));
    }
    let before = format!("banger_{}_", caller.uid);
    if others.iter().filter(|table| table.starts_with(&before)).count() >= MAX {
        return Err(Bad::Refused("there are too many installations with rules"));
    }
    Ok(lock)
}
