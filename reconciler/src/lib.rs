//! Observes the world, plans, and applies the plan; keeps desired state; serves the API.
//!
//! [`engine`] is the loop. [`observe`] asks every driver once and [`apply`] calls one driver per action; all
//! decisions are made in `banger-plan` between the two. [`drivers`] are the four edges to the world, each with
//! a real and a simulated implementation. [`store`] keeps intent. [`api`] is what the command line talks to.
#![forbid(unsafe_code)]

pub mod api;
pub mod apply;
pub mod drivers;
pub mod engine;
pub mod fault;
pub mod folders;
pub mod helper;
pub mod host;
mod kernel_image;
pub mod keys;
pub mod lines;
pub mod names;
pub mod observe;
pub mod process;
pub mod registry;
mod resolve;
mod snapshots;
pub mod stats;
pub mod store;
pub mod unpack;
pub mod vsock;
pub mod way;
pub mod workspace;
