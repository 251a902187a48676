//! Tables, plans and progress.

use anyhow::Result;
use banger_wire::api::{Event, Plan, Problem};
use banger_wire::text::{clean_line, escape_json};
use comfy_table::Table;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

/// Prints a value as JSON, with escapes for what a terminal would act on.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    println!("{}", escape_json(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints rows under a header. Every cell is cleaned.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().map(|cell| cell.to_uppercase()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(|cell| clean_line(cell)));
    }
    for line in table.to_string().lines() {
        println!("{}", line.trim());
    }
}

/// Prints a plan: one line per action.
pub(crate) fn plan(plan: &Plan) {
    let width = plan.lines.iter().map(|line| line.resource.chars().count()).max().unwrap_or(0);
    for line in &plan.lines {
        let (resource, action) = (clean_line(&line.resource), clean_line(&line.action));
        let sign = clean_line(&line.sign.to_string());
        println!("{sign} {resource:width$}  {action}  ({})", clean_line(&line.cause));
    }
    let destroyed = plan.lines.iter().filter(|line| line.destroys).count();
    let count = plan.lines.len();
    let plural = if count == 1 { "" } else { "s" };
    match destroyed {
        0 => println!("{count} action{plural}"),
        n => println!("{count} action{plural}, {n} of them destroying data"),
    }
}

/// The start of a digest, as long as it takes to tell it from others.
pub(crate) fn short(digest: &str) -> String {
    clean_line(digest).chars().take(12).collect()
}

/// Seconds as people say them.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes as people say them.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Shows what happens: bars on a terminal, lines elsewhere, nothing when quiet.
pub(crate) struct Happening {
    mode: Mode,
    bars: BTreeMap<(String, String), ProgressBar>,
}

enum Mode {
    Bars(MultiProgress),
    Lines,
    Quiet,
}

impl Happening {
    pub(crate) fn new(quiet: bool) -> Self {
        let mode = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Bars(MultiProgress::new()),
            (false, false) => Mode::Lines,
        };
        Self { mode, bars: BTreeMap::new() }
    }

    /// Shows one event.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Started { resource, action } => self.started(resource, action),
            Event::Progress { resource, action, done, total } => {
                if let Some(bar) = self.bars.get(&(resource.clone(), action.clone())) {
                    let line = title(resource, action);
                    bar.set_message(match total {
                        0 => line,
                        total => format!("{line} {}%", done.saturating_mul(100) / total),
                    });
                }
            }
            Event::Done { resource, action } => self.ended(resource, action, "done"),
            Event::Failed { resource, action, error } => {
                self.ended(resource, action, &format!("failed: {}", clean_line(&error.message)));
            }
            Event::Phase { .. } | Event::Settled { .. } => {}
        }
    }

    fn started(&mut self, resource: &str, action: &str) {
        if let Mode::Bars(bars) = &self.mode {
            let bar = bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(title(resource, action));
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bars.insert((resource.to_string(), action.to_string()), bar);
        }
    }

    fn ended(&mut self, resource: &str, action: &str, how: &str) {
        let line = format!("{}: {how}", title(resource, action));
        match &self.mode {
            Mode::Quiet => {}
            Mode::Lines => eprintln!("{line}"),
            Mode::Bars(bars) => {
                if let Some(bar) = self.bars.remove(&(resource.to_string(), action.to_string())) {
                    bar.finish_and_clear();
                }
                let _ = bars.println(line);
            }
        }
    }

    /// Clears what is still shown.
    pub(crate) fn end(&mut self) {
        for bar in std::mem::take(&mut self.bars).into_values() {
            bar.finish_and_clear();
        }
    }
}

fn title(resource: &str, action: &str) -> String {
    format!("{}: {}", clean_line(resource), clean_line(action))
}

/// Several problems as one failure.
pub(crate) fn failure(problems: Vec<Problem>) -> crate::failure::Failure {
    let mut problems = problems.into_iter();
    let Some(first) = problems.next() else {
        return crate::failure::Failure::new(crate::failure::FAILED, "it is not as it should be");
    };
    let mut failure = crate::failure::Failure::from(first);
    for problem in problems {
        failure.message.push_str(&format!("\nerror: {}", problem.message));
        failure.hints.extend(problem.hints);
    }
    failure.hints.dedup();
    failure
}
