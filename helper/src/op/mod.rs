//! The operations, one file each.

pub(crate) mod bridge_ensure;
pub(crate) mod bridge_remove;
pub(crate) mod dns_route;
pub(crate) mod hello;
pub(crate) mod memory_drop;
pub(crate) mod memory_keep;
pub(crate) mod memory_list;
pub(crate) mod probe;
pub(crate) mod rules_apply;
pub(crate) mod rules_check;
pub(crate) mod rules_remove;
pub(crate) mod tap_ensure;
pub(crate) mod tap_remove;
pub(crate) mod tap_set;
pub(crate) mod vm_end;
pub(crate) mod vm_list;
pub(crate) mod vm_open;
pub(crate) mod vm_remove;
pub(crate) mod vm_start;
