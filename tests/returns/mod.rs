//! What a hostile guest may send back: at least 120 ways (R-P9). Whatever it is, nothing is written outside the tree, nothing
//! of `.git` is touched but what `pull` is for, and git runs nothing.

mod commits;
mod files;
mod lab;

use lab::{Case, Lab};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a group of cases in one lab, whose state is not reset between them: what one leaves must not help the next.
fn run(test: &str, cases: Vec<Case>, least: usize) {
    // Everything that git starts is written down: only a process that was started so knows.
    if std::env::var_os(lab::TRACE).is_none() {
        return lab::traced(test);
    }
    assert!(cases.len() >= least, "{} cases", cases.len());
    let mut lab = Lab::new();
    let failed =
        cases.iter().filter(|case| catch_unwind(AssertUnwindSafe(|| lab.run(case))).is_err());
    let failed: Vec<&str> = failed.map(|case| case.name).collect();
    assert!(failed.is_empty(), "{failed:?}");
    lab.nothing_was_run();
}

#[test]
fn hostile_files() {
    run("returns::hostile_files", files::cases(), 75);
}

#[test]
fn hostile_commits() {
    run("returns::hostile_commits", commits::cases(), 45);
}

/// Folders that become links while files are on their way, and hosts that moved.
#[test]
fn hosts_that_move() {
    run("returns::hosts_that_move", files::moving(), 10);
}
