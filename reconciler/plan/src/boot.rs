//! What a VMM is started with. A change of any of it means stop and start.

use crate::desired::DesiredSandbox;
use crate::recipe;
use banger_schema::spec::SandboxSpec;
use banger_wire::id::{Cid, Digest, SandboxId, VolumeId};
use banger_wire::machine::{Backend, BootKey, Card};
use banger_wire::size::Mib;
use serde::{Deserialize, Serialize};

/// How a guest is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nic {
    /// It has no network card.
    #[default]
    None,
    /// A port on the host's bridge, behind the host's rules.
    Tap,
    /// The VMM's own network stack, which has no rules: only where none are asked for.
    User,
}

impl From<Nic> for Card {
    fn from(nic: Nic) -> Self {
        match nic {
            Nic::None => Card::None,
            Nic::Tap => Card::Tap,
            Nic::User => Card::User,
        }
    }
}

impl std::fmt::Display for Nic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Nic::None => "none",
            Nic::Tap => "bridge",
            Nic::User => "user mode",
        })
    }
}

/// Everything that is fixed for as long as a VMM runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Whose.
    pub sandbox: SandboxId,
    /// The content of the kernel.
    pub kernel: Digest,
    /// The recipe of the image that the disk lies above.
    pub recipe: Digest,
    /// The content of that image.
    pub image: Digest,
    /// Processors.
    pub cpus: u8,
    /// Memory.
    pub memory: Mib,
    /// The size of its own disk.
    pub disk: Mib,
    /// Volumes in the order of their devices, and where they are mounted.
    pub volumes: Vec<(VolumeId, String)>,
    /// The service of an image without init.
    pub command: Vec<String>,
    /// What the service begins with, its user and its folder, where the file says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_as: Vec<String>,
    /// Its vsock address.
    pub cid: Cid,
    /// How it is connected.
    #[serde(default)]
    pub nic: Nic,
    /// What runs it. QEMU's are written down as they were before there was another.
    #[serde(default = "qemu", skip_serializing_if = "is_qemu")]
    pub backend: Backend,
    /// What it may read and write of each disk in a second, and what its card may receive, and send.
    #[serde(default, skip_serializing_if = "is_free")]
    pub rates: (Option<Mib>, Option<Mib>),
    /// How often it was asked to restart.
    pub restarts: u32,
}

fn qemu() -> Backend {
    Backend::Qemu
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_qemu(backend: &Backend) -> bool {
    *backend == Backend::Qemu
}

fn is_free(rates: &(Option<Mib>, Option<Mib>)) -> bool {
    *rates == (None, None)
}

impl Boot {
    /// What a sandbox should be started with, above these contents.
    pub fn of(
        desired: &DesiredSandbox,
        kernel: &Digest,
        image: &Digest,
        nic: Nic,
        backend: Backend,
    ) -> Self {
        let spec = &desired.spec;
        let at = spec.volumes.iter().map(|mount| mount.at.clone());
        Self {
            sandbox: desired.id.clone(),
            kernel: kernel.clone(),
            recipe: desired.image.clone(),
            image: image.clone(),
            cpus: spec.cpus,
            memory: spec.memory,
            disk: spec.disk,
            volumes: desired.volumes.iter().cloned().zip(at).collect(),
            command: spec.command.clone(),
            run_as: run_as(spec),
            cid: desired.cid,
            nic,
            backend,
            rates: (spec.disk_rate, spec.net_rate),
            restarts: spec.restarts,
        }
    }

    /// Identifies a start with it.
    pub fn key(&self) -> BootKey {
        let digest = recipe::digest(self).as_str()[..BootKey::LENGTH].to_string();
        BootKey::try_from(digest).expect("digests are hex digits")
    }

    /// What differs, one line each, from one whose memory was kept to the wanted one. The memory may be another sandbox's.
    ///
    /// How often somebody asked for a restart counts for its own only: what a snapshot was taken of may have been restarted since.
    pub fn kept_differences(kept: &Boot, wanted: &Boot, own: bool) -> Vec<String> {
        if own {
            return Self::differences(kept, wanted);
        }
        Self::differences(&Self { restarts: wanted.restarts, ..kept.as_of(wanted) }, wanted)
    }

    /// The same machine as another sandbox's.
    fn as_of(&self, wanted: &Boot) -> Boot {
        let (sandbox, cid) = (wanted.sandbox.clone(), wanted.cid);
        Self { sandbox, cid, recipe: wanted.recipe.clone(), ..self.clone() }
    }

    /// What differs, one line each, from a running one to the wanted one.
    pub fn differences(running: &Boot, wanted: &Boot) -> Vec<String> {
        let mut lines = Vec::new();
        let mut differ = |name: &str, old: String, new: String| {
            if old != new {
                lines.push(format!("{name} {old} → {new} (restart)"));
            }
        };
        differ("cpus", running.cpus.to_string(), wanted.cpus.to_string());
        differ("memory", running.memory.to_string(), wanted.memory.to_string());
        differ("disk", running.disk.to_string(), wanted.disk.to_string());
        differ("kernel", running.kernel.short().into(), wanted.kernel.short().into());
        differ("volumes", volumes(running), volumes(wanted));
        differ("vmm", running.backend.to_string(), wanted.backend.to_string());
        differ("network card", running.nic.to_string(), wanted.nic.to_string());
        differ("disk-rate", rate(running.rates.0), rate(wanted.rates.0));
        differ("net-rate", rate(running.rates.1), rate(wanted.rates.1));
        differ("command", running.command.join(" "), wanted.command.join(" "));
        differ("entrypoint, user and workdir", running.run_as.join(" "), wanted.run_as.join(" "));
        if running.restarts != wanted.restarts {
            lines.push("restart was asked for".to_string());
        }
        if lines.is_empty() && running != wanted {
            lines.push("it was started otherwise (restart)".to_string());
        }
        lines
    }
}

/// Empty where the file says nothing, so that a sandbox of an earlier version is still the same.
fn run_as(spec: &SandboxSpec) -> Vec<String> {
    let named = [("user", &spec.user), ("workdir", &spec.workdir)];
    let named =
        named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    spec.entrypoint.iter().map(|word| format!("entrypoint={word}")).chain(named).collect()
}

fn rate(rate: Option<Mib>) -> String {
    rate.map_or("none".to_string(), |rate| rate.to_string())
}

fn volumes(boot: &Boot) -> String {
    let at: Vec<&str> = boot.volumes.iter().map(|(_, at)| at.as_str()).collect();
    if at.is_empty() { "none".to_string() } else { at.join(", ") }
}
