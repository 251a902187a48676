//! The helper as root.
