//! `vm ports` and `vm stats`.

use super::vm::find;
use crate::arguments::Global;
use crate::client::Client;
use crate::show;
use anyhow::Result;
use banger_wire::api::{Port, SandboxStats};
use banger_wire::id::Name;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks: what makes a rate of a counter.
const MOMENT: Duration = Duration::from_millis(500);
const WATCH: Duration = Duration::from_secs(2);

pub(super) async fn ports(global: &Global, name: &Name) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let found = find(&client, global, name, true).await?;
    let path = format!("/v1/projects/{}/sandboxes/{name}/ports", found.project);
    let ports: Vec<Port> = client.get(&path).await?;
    if global.json {
        show::json(&ports)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = ports.iter().map(|port| {
        vec![
            port.protocol.clone(),
            port.port.to_string(),
            port.address.map(|address| address.to_string()).unwrap_or_else(|| "nobody".into()),
            port.program.clone(),
            port.published.map(|host| format!("127.0.0.1:{host}")).unwrap_or_default(),
        ]
    });
    show::table(&["protocol", "port", "listens on", "program", "published"], rows.collect());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn stats(global: &Global, name: Option<&Name>, watch: bool) -> Result<ExitCode> {
    let client = Client::connect().await?;
    let only = match name {
        Some(name) => Some(find(&client, global, name, true).await?),
        None => None,
    };
    let mut before = look(&client, global, only.as_ref().map(|s| (&s.project, &s.name))).await?;
    let mut pause = MOMENT;
    loop {
        tokio::time::sleep(pause).await;
        let now = look(&client, global, only.as_ref().map(|s| (&s.project, &s.name))).await?;
        if global.json {
            show::json(&now)?;
        } else {
            if watch && std::io::stdout().is_terminal() {
                // Home, and clear what is below.
                print!("\x1b[H\x1b[J");
            }
            table(&before, &now);
        }
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        (before, pause) = (now, WATCH);
    }
}

async fn look(
    client: &Client,
    global: &Global,
    only: Option<(&Name, &Name)>,
) -> Result<Vec<SandboxStats>> {
    let query = global.project.as_ref().map(|p| format!("?project={p}")).unwrap_or_default();
    let mut all: Vec<SandboxStats> = client.get(&format!("/v1/stats{query}")).await?;
    all.retain(|stats| {
        only.is_none_or(|(project, name)| stats.project == *project && stats.name == *name)
    });
    Ok(all)
}

fn table(before: &[SandboxStats], now: &[SandboxStats]) {
    let key = |stats: &SandboxStats| (stats.project.clone(), stats.name.clone());
    let before: BTreeMap<_, _> = before.iter().map(|stats| (key(stats), stats)).collect();
    let rows = now.iter().map(|stats| {
        let earlier = before.get(&key(stats));
        let cpu = earlier.map(|earlier| percent(earlier, stats)).unwrap_or_default();
        let pair = |used: u64, of: u64| format!("{} / {}", show::bytes(used), show::bytes(of));
        vec![
            stats.project.to_string(),
            stats.name.to_string(),
            cpu,
            pair(stats.memory_bytes, stats.memory_limit_bytes),
            pair(stats.disk_bytes, stats.disk_limit_bytes),
            pair(stats.disk_read_bytes, stats.disk_written_bytes),
            pair(stats.net_received_bytes, stats.net_sent_bytes),
        ]
    });
    show::table(
        &["project", "name", "cpu", "memory", "disk", "read / written", "received / sent"],
        rows.collect(),
    );
}

/// Of one processor.
fn percent(before: &SandboxStats, now: &SandboxStats) -> String {
    let time = now.at_ns.saturating_sub(before.at_ns).max(1);
    let used = now.cpu_ns.saturating_sub(before.cpu_ns);
    format!("{:.0}%", used as f64 * 100.0 / time as f64)
}
