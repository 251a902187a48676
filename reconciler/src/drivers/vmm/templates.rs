//! Which template is of which machine. The helper keeps them; here is what they are known by.

use crate::helper::Helper;
use banger_plan::actual::TemplateFact;
use banger_plan::boot::{Boot, Nic};
use banger_plan::recipe;
use banger_wire::helper::{Memory, MemoryOf, Purpose};
use banger_wire::id::Digest;
use banger_wire::machine::{BootKey, Version};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

/// What this daemon knows of templates.
pub(super) struct Templates {
    /// The agent and the VMM of now.
    programs: Digest,
    processor: Digest,
    /// Those that were tried to be kept.
    tried: Mutex<BTreeSet<BootKey>>,
}

/// What the first processor is.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let told = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];
    let first = info.split("\n\n").next().unwrap_or_default().lines();
    first.filter(|line| told.iter().any(|name| line.starts_with(name))).collect()
}

impl Templates {
    pub(super) fn new(agent: &Path, version: Option<Version>) -> Self {
        let agent = std::fs::read(agent).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(format!("{version:?} {}", env!("CARGO_PKG_VERSION")));
        // A memory holds what its guest found out about the processor, as the host's kernel showed it.
        hash.update(std::fs::read("/proc/sys/kernel/osrelease").unwrap_or_default());
        hash.update(processor());
        hash.update(agent);
        Self {
            programs: Digest::from_bytes(&hash.finalize().into()),
            processor: recipe::digest(&processor()),
            tried: Mutex::default(),
        }
    }

    /// The programs of now, and the host below them.
    pub(super) fn programs(&self) -> &Digest {
        &self.programs
    }

    /// What a template of a boot's machine is known by, with the sizes of its disks: everything that its guest has seen
    /// when it waits.
    pub(super) fn key(&self, boot: &Boot, disks: &[u64]) -> (BootKey, MemoryOf) {
        let of = MemoryOf {
            purpose: Purpose::Template,
            kernel: boot.kernel.clone(),
            image: boot.image.clone(),
            programs: self.programs.clone(),
        };
        let machine = (boot.cpus, boot.memory, boot.nic == Nic::None, disks, boot.rates);
        let digest = recipe::digest(&(&of, machine)).as_str()[..BootKey::LENGTH].to_string();
        (BootKey::try_from(digest).expect("digests are hex digits"), of)
    }

    pub(super) fn tried(&self, key: &BootKey) {
        self.tried.lock().expect("no holder panics").insert(key.clone());
    }

    pub(super) fn was_tried(&self, key: &BootKey) -> bool {
        self.tried.lock().expect("no holder panics").contains(key)
    }

    /// The host's processor, as guests find it out.
    pub(super) fn processor(&self) -> &Digest {
        &self.processor
    }

    /// Those that there are.
    pub(super) fn facts(&self, all: &[Memory]) -> BTreeMap<BootKey, TemplateFact> {
        let fact = |memory: &Memory| {
            let fact = TemplateFact {
                current: memory.of.programs == self.programs,
                kernel: memory.of.kernel.clone(),
                image: memory.of.image.clone(),
                idle_secs: memory.idle_secs,
            };
            (memory.memory.clone(), fact)
        };
        all.iter().filter(|memory| memory.of.purpose == Purpose::Template).map(fact).collect()
    }

    /// All that there are. What cannot be told is as if it were not there: a machine then boots.
    pub(super) fn list(&self, helper: Option<&Helper>) -> BTreeMap<BootKey, TemplateFact> {
        let all = helper.map(Helper::memories).and_then(Result::ok).unwrap_or_default();
        self.facts(&all)
    }
}
