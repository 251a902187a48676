//! Bakes the commit and the time of the build into `banger version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../../.git/HEAD");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_string());
    // The commit's time unless the environment says otherwise: the same source gives the same program.
    let built =
        std::env::var("SOURCE_DATE_EPOCH").ok().or_else(|| git(&["log", "-1", "--format=%ct"]));
    println!("cargo::rustc-env=BANGER_COMMIT={commit}");
    println!("cargo::rustc-env=BANGER_BUILT={}", built.unwrap_or_else(|| "0".to_string()));
}
