//! Facts about the host.

use crate::answer::Answer;
use crate::cgroup;
use banger_wire::helper::{Facts, Reply};
use rustix::fs::{Access, access};

pub(crate) fn run() -> Answer {
    let root = cgroup::hierarchy().filter(|root| access(root, Access::WRITE_OK).is_ok());
    let controllers = root.as_deref().map(cgroup::controllers).unwrap_or_default();
    Ok(Reply::Facts(Facts { cgroup2: root.is_some(), controllers }))
}
