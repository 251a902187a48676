//! The pure core of banger. Five nouns and three verbs:
//!
//! - **Spec** ([`banger_schema::Spec`]) is what a Bangerfile says.
//! - **Desired** ([`desired::Desired`]) is every project's Spec plus every choice (ids, vsock CIDs, recipe
//!   digests), made once by [`assign`](mod@assign) and stored before any effect.
//! - **Actual** ([`actual::Actual`]) is what was seen. A fact is absent, present, or unknown; nothing is made
//!   or destroyed on unknown.
//! - **Plan** ([`plan::Plan`]) is a pure function of Desired and Actual. Its text is what people see and what
//!   the tests compare.
//! - **Action** ([`action::Action`]) is one driver call with one effect.
//!
//! *observe* makes an Actual, [`plan()`] makes a Plan, *apply* calls the drivers; then we look again. Observe
//! and apply live in `banger-reconciler`. Here there is no clock, no randomness, no file, no environment.
#![forbid(unsafe_code)]

pub mod action;
pub mod actual;
pub mod admit;
pub mod assign;
pub mod boot;
pub mod desired;
pub mod doctor;
pub mod edit;
pub mod host;
pub mod kind;
pub mod pin;
pub mod plan;
pub mod policy;
pub mod recipe;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod zone;

pub use actual::{Actual, Seen};
pub use desired::Desired;
pub use plan::{Plan, plan};
