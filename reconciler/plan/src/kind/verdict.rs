//! What is to become of a sandbox's VMM and disk: the decision that its parts then carry out.

use super::{network, snapshot, suspend};
use crate::actual::{Actual, SandboxFact, Seen, VmmFact};
use crate::boot::{Boot, Nic};
use crate::desired::{Desired, DesiredSandbox, Key, Life};
use crate::plan::{List, Wait};
use banger_schema::spec::{Drift, Mode, Restart};
use banger_wire::agent::Phase;
use banger_wire::id::{Digest, VolumeId};
use banger_wire::machine::Backend;

/// Seconds that a VMM may run without its guest's agent being heard.
pub const GUEST_DEADLINE_SECS: u64 = 120;

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// End the VMM, and why.
    pub stop: Option<String>,
    /// Keep the memory before it ends.
    pub suspend: bool,
    /// Start the VMM, and why.
    pub start: Option<String>,
    /// Whether it goes on from the memory that was kept.
    pub wakes: bool,
    /// Give up the memory that was kept, and why.
    pub forget: Option<String>,
    /// Destroy the disk, and why.
    pub remove_disk: Option<String>,
    /// Make it anew, though nothing starts.
    pub makes_disk: bool,
    /// What would be started, as far as it is known.
    pub boot: Option<Boot>,
    /// How it is connected, when it runs.
    pub nic: Option<Nic>,
}

pub(super) fn decide(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    desired: &Desired,
    actual: &Actual,
    list: &mut List,
) -> Verdict {
    let kept = fact.suspended.present();
    if sandbox.life == Life::Removed {
        let why = "removed".to_string();
        return Verdict {
            stop: fact.vmm.present().map(|_| why.clone()),
            forget: kept.map(|_| why.clone()),
            remove_disk: (fact.folder || fact.disk.present().is_some()).then_some(why),
            ..Verdict::default()
        };
    }
    if sandbox.spec.mode == Mode::Stopped {
        let why = if sandbox.spec.kill { "it was killed" } else { "mode stopped" };
        let (remove_disk, makes_disk) = snapshot::put_back(sandbox, fact, actual);
        return Verdict {
            stop: fact.vmm.present().map(|_| why.to_string()),
            // What a snapshot brought is gone on from at the next start.
            forget: kept.filter(|kept| kept.own).map(|_| why.to_string()),
            makes_disk,
            remove_disk,
            ..Verdict::default()
        };
    }
    if sandbox.spec.mode == Mode::Suspended {
        let (remove_disk, makes_disk) = snapshot::put_back(sandbox, fact, actual);
        if fact.vmm.is_absent() && makes_disk {
            let forget = kept.map(|_| "it is put back to a snapshot".to_string());
            return Verdict { forget, remove_disk, makes_disk, ..Verdict::default() };
        }
        return suspend::decide(fact, list);
    }
    let nic = match network::nic(sandbox, desired, actual) {
        Ok(nic) => nic,
        Err(why) => {
            list.blocked.push(why);
            return Verdict::default();
        }
    };
    let backend = match backend(sandbox, fact, actual) {
        Ok(backend) => backend,
        Err(why) => {
            list.blocked.push(why);
            return Verdict { nic: Some(nic), ..Verdict::default() };
        }
    };
    if backend == Backend::Qemu && sandbox.spec.net_rate.is_some() {
        list.blocked.push("only Firecracker holds a network card to a rate".to_string());
        return Verdict { nic: Some(nic), ..Verdict::default() };
    }
    let replace = replacement(sandbox, fact, actual, list);
    if replace.is_none() && !list.blocked.is_empty() {
        return Verdict { nic: Some(nic), ..Verdict::default() };
    }
    let boot = wanted_boot(sandbox, fact, actual, replace.is_some(), (nic, backend));
    let mut verdict =
        Verdict { boot, nic: Some(nic), remove_disk: replace.clone(), ..Verdict::default() };
    match &fact.vmm {
        Seen::Present(vmm) => {
            verdict.stop =
                replace.or_else(|| reason_to_stop(sandbox, fact, vmm, verdict.boot.as_ref()));
            verdict.start = verdict.stop.clone();
        }
        Seen::Absent | Seen::Unknown(_) => {
            verdict.start = match replace {
                Some(why) => Some(why),
                None => reason_to_start(sandbox, fact, verdict.boot.as_ref(), list),
            };
        }
    }
    if verdict.start.is_some() && (fact.disk.is_absent() || verdict.remove_disk.is_some()) {
        let from = snapshot::origin(sandbox, actual).and_then(|from| from.boot.as_ref());
        let fits = |from| {
            verdict
                .boot
                .as_ref()
                .is_some_and(|boot| Boot::kept_differences(from, boot, false).is_empty())
        };
        verdict.wakes = from.is_some_and(fits) && backend == Backend::Firecracker;
    }
    if let Some(kept) = kept {
        // One that runs is past its memory, unless it stands still because of it.
        let runs = fact.vmm.present().is_some_and(|vmm| !vmm.is_suspended);
        let why = if runs {
            Some("it runs".to_string())
        } else {
            verdict.remove_disk.clone().or_else(|| suspend::unfit(kept, verdict.boot.as_ref()))
        };
        verdict.wakes |= verdict.start.is_some() && why.is_none();
        verdict.forget = why.filter(|_| runs || verdict.start.is_some());
    }
    if let Some(why) = actual.backends.missing.get(&backend).filter(|_| verdict.start.is_some()) {
        // What runs is not stopped for a start that cannot be.
        list.blocked.push(format!("{backend} cannot run it here: {why}"));
        return Verdict { nic: Some(nic), ..Verdict::default() };
    }
    let lost = || snapshot::lost_origin(sandbox, actual);
    if let Some(why) = lost().filter(|_| fact.disk.is_absent() && verdict.start.is_some()) {
        list.blocked.push(why);
        return Verdict { nic: Some(nic), ..Verdict::default() };
    }
    if verdict.start.is_some() {
        let new_disk = fact.disk.is_absent() || verdict.remove_disk.is_some();
        wait_for_needs(sandbox, (nic, new_disk), desired, actual, list);
    }
    verdict
}

/// What runs it: what the file says; else what runs it already, or ran it last, for nobody wants a restart because the host has learned
/// something; else what the host runs best.
fn backend(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    actual: &Actual,
) -> Result<Backend, String> {
    let missing = &actual.backends.missing;
    let ran = fact.run.present().and_then(|run| run.boot.as_ref()).map(|boot| boot.backend);
    let running = ran.filter(|_| fact.vmm.present().is_some());
    let stays = ran.filter(|ran| running.is_some() || !missing.contains_key(ran));
    let wanted = sandbox.spec.vmm.or(stays).unwrap_or(actual.backends.default);
    match missing.get(&wanted).filter(|_| running != Some(wanted)) {
        Some(why) => Err(format!("{wanted} cannot run it here: {why}")),
        None => Ok(wanted),
    }
}

/// Why the disk has to be made anew, if it has to and may be.
fn replacement(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    actual: &Actual,
    list: &mut List,
) -> Option<String> {
    let disk = fact.disk.present()?;
    if let Some(why) = snapshot::replacement(sandbox, disk, actual) {
        return Some(why);
    }
    if disk.origin.is_some() && disk.origin == sandbox.origin {
        // It is what was asked for; another image than now would have taken that back.
        return None;
    }
    let image = actual.images.get(&sandbox.image).and_then(Seen::present);
    // Another recipe for the same image is no reason.
    if disk.recipe == sandbox.image || image.is_some_and(|image| image.content == disk.content) {
        return None;
    }
    let why = format!("image {} → {} (replace)", disk.recipe.short(), sandbox.image.short());
    if sandbox.consent || sandbox.ephemeral {
        return Some(why);
    }
    list.blocked.push(format!("{why} would destroy its disk; apply it to agree"));
    None
}

/// What should run: above the content that its disk was made for, or the image's current one.
fn wanted_boot(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    actual: &Actual,
    new_disk: bool,
    (nic, backend): (Nic, Backend),
) -> Option<Boot> {
    let content =
        |facts: &std::collections::BTreeMap<Digest, Seen<crate::actual::ArtifactFact>>,
         recipe: &Digest| {
            facts.get(recipe).and_then(Seen::present).map(|fact| fact.content.clone())
        };
    let own = fact.disk.present().filter(|_| !new_disk).map(|disk| disk.content.clone());
    let own = own.or_else(|| Some(snapshot::origin(sandbox, actual)?.disk.content.clone()));
    let image = own.or_else(|| content(&actual.images, &sandbox.image))?;
    let kernel = content(&actual.kernels, &sandbox.kernel)?;
    Some(Boot::of(sandbox, &kernel, &image, nic, backend))
}

fn reason_to_stop(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    vmm: &VmmFact,
    boot: Option<&Boot>,
) -> Option<String> {
    if vmm.is_suspended {
        return Some("it was suspended".to_string());
    }
    if !vmm.whole {
        return Some("one of its processes is gone".to_string());
    }
    if let Some(wanted) = boot
        && wanted.key() != vmm.boot
    {
        let running = fact.run.present().and_then(|run| run.boot.as_ref());
        let lines = running.map(|running| Boot::differences(running, wanted)).unwrap_or_default();
        return Some(match lines.is_empty() {
            true => "it was started otherwise (restart)".to_string(),
            false => lines.join(", "),
        });
    }
    if sandbox.spec.drift == Drift::Heal
        && boot.is_some_and(|boot| boot.nic == Nic::Tap)
        && fact.tap.is_absent()
    {
        return Some("its port on the bridge is gone (restart)".to_string());
    }
    if sandbox.spec.drift == Drift::Heal
        && fact.guest.present().is_none()
        && fact.silent_secs.min(vmm.uptime_secs) >= GUEST_DEADLINE_SECS
    {
        return Some(format!("its guest did not answer for {GUEST_DEADLINE_SECS} s"));
    }
    None
}

fn reason_to_start(
    sandbox: &DesiredSandbox,
    fact: &SandboxFact,
    boot: Option<&Boot>,
    list: &mut List,
) -> Option<String> {
    let kept = fact.suspended.present().filter(|kept| kept.unusable.is_none());
    if let Some(kept) = kept
        && suspend::unfit(kept, boot).is_none()
    {
        return Some("it was suspended".to_string());
    }
    let Some(run) = fact.run.present() else { return Some("mode running".to_string()) };
    let same = run.boot.as_ref().is_some_and(|ran| boot.is_none_or(|wanted| ran == wanted));
    if !same {
        return Some("mode running".to_string());
    }
    if sandbox.spec.drift == Drift::Report {
        list.blocked.push("it ended by itself, and drift is \"report\"".to_string());
        return None;
    }
    match (sandbox.spec.restart, run.left) {
        (Restart::Always, true) => Some("its guest powered off, restart always".to_string()),
        (Restart::Always | Restart::OnFailure, false) => {
            Some("its VMM ended by itself".to_string())
        }
        (Restart::OnFailure, true) | (Restart::Never, _) => None,
    }
}

/// What must be there before a start.
fn wait_for_needs(
    sandbox: &DesiredSandbox,
    (nic, new_disk): (Nic, bool),
    desired: &Desired,
    actual: &Actual,
    list: &mut List,
) {
    if new_disk {
        snapshot::wait_for_origin(sandbox, desired, actual, list);
    }
    let mut need = |there: bool, key: Key| {
        if !there {
            list.waits.push(Wait::For(key.clone(), desired.title(&key)));
        }
    };
    let there = |seen: Option<&Seen<_>>| seen.and_then(Seen::present).is_some();
    need(there(actual.kernels.get(&sandbox.kernel)), Key::Kernel(sandbox.kernel.clone()));
    need(there(actual.images.get(&sandbox.image)), Key::Image(sandbox.image.clone()));
    if nic == Nic::Tap {
        need(network::is_current(actual), Key::Network);
    }
    for volume in &sandbox.volumes {
        let there = actual.volumes.get(volume).and_then(Seen::present).is_some();
        need(there, Key::Volume(volume.clone()));
    }
    for volume in &sandbox.volumes {
        // A disk is written by one machine at a time: whoever had it must be gone.
        let holder = actual.sandboxes.iter().find(|(other, fact)| {
            **other != sandbox.id && !fact.vmm.is_absent() && has_volume(fact, volume)
        });
        if let Some((other, _)) = holder {
            let key = Key::Sandbox(other.clone());
            let title = format!("{} to let go of a volume", desired.title(&key));
            list.waits.push(Wait::For(key, title));
        }
    }
    for name in &sandbox.spec.after {
        let ready = desired.sandbox(&sandbox.project, name).is_some_and(|other| {
            let fact = actual.sandboxes.get(&other.id);
            is_ready(other, fact)
        });
        if !ready {
            list.waits.push(Wait::Ready(name.clone()));
        }
    }
}

/// Whether a sandbox's present or last run was started with a volume.
pub(crate) fn has_volume(fact: &SandboxFact, volume: &VolumeId) -> bool {
    let boot = fact.run.present().and_then(|run| run.boot.as_ref());
    boot.is_some_and(|boot| boot.volumes.iter().any(|(id, _)| id == volume))
}

/// Whether the guest answered, for this generation, that it is ready.
pub fn is_ready(sandbox: &DesiredSandbox, fact: Option<&SandboxFact>) -> bool {
    let Some(fact) = fact else { return false };
    fact.vmm.present().is_some_and(|vmm| vmm.whole)
        && fact
            .guest
            .present()
            .is_some_and(|g| g.generation == sandbox.generation && g.phase == Phase::Ready)
}
