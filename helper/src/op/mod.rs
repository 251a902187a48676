//! The operations, one file each.

pub(crate) mod bridge_ensure;
pub(crate) mod bridge_remove;
pub(crate) mod cgroup_join;
pub(crate) mod cgroup_remove;
pub(crate) mod dns_route;
pub(crate) mod hello;
pub(crate) mod probe;
pub(crate) mod rules_apply;
pub(crate) mod rules_check;
pub(crate) mod rules_remove;
pub(crate) mod tap_ensure;
pub(crate) mod tap_open;
pub(crate) mod tap_remove;
pub(crate) mod tap_set;
