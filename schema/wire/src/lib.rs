//! Every message between banger's processes, the newtypes for ids, and the names derived from them.
//!
//! This is not a place for I/O or decisions: types, bounds and pure conversions only, so that the
//! root helper and the guest agent can depend on it without pulling anything else in.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod derive;
pub mod frame;
pub mod helper;
pub mod id;
#[cfg(feature = "tokio")]
pub mod json;
pub mod machine;
pub mod net;
#[cfg(feature = "tokio")]
pub mod pipe;
pub mod qemu;
pub mod size;
#[cfg(feature = "tokio")]
pub mod stream;
pub mod text;
