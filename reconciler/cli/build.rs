//! Bakes the commit and the time of the build into `banger version`.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn main() {
    // A commit changes the log of HEAD, and HEAD itself only where it moves to another branch.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_string());
    // The commit's time unless the environment says otherwise: the same source gives the same program.
    let built =
        std::env::var("SOURCE_DATE_EPOCH").ok().or_else(|| git(&["log", "-1", "--format=%ct"]));
    println!("cargo::rustc-env=BANGER_COMMIT={commit}");
    let seconds = built.and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    let built = time.map(|time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string());
    println!("cargo::rustc-env=BANGER_BUILT={}", built.unwrap_or_else(|| "unknown".to_string()));
}
