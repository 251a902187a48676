//! The operations, one file each.

pub(crate) mod cgroup_join;
pub(crate) mod cgroup_remove;
pub(crate) mod hello;
pub(crate) mod probe;
