//! Nothing: the tests are in `all.rs`, the figures in `figures.rs`.
