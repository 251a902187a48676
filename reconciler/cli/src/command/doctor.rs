//! `doctor`: gathers what is seen here and what the daemon says, and shows what `banger_plan::doctor` finds in it.

use crate::client::Client;
use crate::failure::{FAILED, Failure};
use crate::{host, show};
use anyhow::Result;
use banger_plan::doctor::{Daemon, Finding, Gathered, Mark, findings};
use banger_wire::api::Version;
use banger_wire::api::facts::Facts;
use banger_wire::text::clean_line;
use serde::de::DeserializeOwned;
use std::process::ExitCode;
use std::time::Duration;

/// How long the daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(as_json: bool) -> Result<ExitCode> {
    // First: one that starts makes its folders.
    let daemon = daemon().await;
    let gathered =
        Gathered { version: env!("CARGO_PKG_VERSION").into(), host: host::look(), daemon };
    let found = findings(&gathered);
    if as_json {
        show::json(&found)?;
    } else {
        list(&found);
    }
    let failed = found.iter().any(|finding| finding.status == Mark::Fail);
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

async fn daemon() -> Daemon {
    let client = match Client::connect().await {
        Ok(client) => client,
        Err(error) => return gone(&error),
    };
    let version: Version = match ask(&client, "/v1/version").await {
        Ok(version) => version,
        Err(error) => return gone(&error),
    };
    match ask::<Facts>(&client, "/v1/facts").await {
        Ok(facts) => Daemon::Tells { version, facts: Box::new(facts) },
        Err(error) => Daemon::Silent { version, why: line(&error) },
    }
}

async fn ask<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    let late = || Failure::new(FAILED, format!("no answer in {} seconds", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, client.get(path)).await.map_err(|_| late())?
}

fn gone(error: &anyhow::Error) -> Daemon {
    let hints = error.downcast_ref::<Failure>().map(|failure| failure.hints.join("; "));
    Daemon::Gone { why: line(error), hint: hints.filter(|hint| !hint.is_empty()) }
}

/// A cause in one line.
fn line(error: &anyhow::Error) -> String {
    format!("{error:#}").trim_end_matches([':', ' ', '\n']).to_string()
}

/// A line for each finding, and one for what to do.
fn list(found: &[Finding]) {
    let width = found.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { name, status, found, hint } in found {
        println!("{status:4}  {name:width$}  {}", clean_line(found));
        if let Some(hint) = hint {
            println!("      hint: {}", clean_line(hint));
        }
    }
}
