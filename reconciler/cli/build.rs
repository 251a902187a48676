//! Bakes the commit and the time of the build into `banger version`.

use std::path::Path;
use std::process::Command;

fn main() {
    // A commit changes the log of HEAD, and HEAD itself only where it moves to another branch.
    for file in ["../../.git/HEAD", "../../.git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
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
    let seconds = built.and_then(|text| text.parse().ok()).unwrap_or(0);
    let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    println!("cargo::rustc-env=BANGER_BUILT={}", time.format("%Y-%m-%dT%H:%M:%SZ"));
}
