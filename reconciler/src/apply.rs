//! Carries out one action: one driver call. There are no decisions here either.

use crate::drivers::{Begin, DiskRemoval, DiskTarget, Drivers, NetChange, Outcome, Progress};
use crate::fault::Fault;
use banger_plan::action::Action;
use banger_plan::actual::ImageConfig;
use banger_plan::boot::Nic;
use banger_plan::desired::{Desired, DesiredSandbox};
use banger_plan::{recipe, service};
use banger_wire::agent::{Identity, Network, ReadyProbe, Signal, Ssh};
use banger_wire::api::ProblemKind;
use banger_wire::id::{Generation, SandboxId};

/// What an identity needs and a pure value cannot know.
pub trait Moment: Send + Sync {
    /// The clock, in nanoseconds since 1970.
    fn clock_ns(&self) -> u64;
    /// 32 random bytes in hex.
    fn entropy(&self) -> String;
    /// The keys of a sandbox's SSH server.
    fn ssh(&self, sandbox: &SandboxId) -> Option<Ssh>;
}

/// Calls the one driver that an action is for.
///
/// # Errors
/// What the driver reports.
pub async fn apply(
    action: &Action,
    desired: &Desired,
    drivers: &Drivers,
    moment: &dyn Moment,
    progress: Progress,
) -> Result<Outcome, Fault> {
    let Drivers { disk, vmm, guest, net } = drivers;
    match action {
        Action::BuildKernel { recipe, source } => disk.build_kernel(recipe, source, progress).await,
        Action::BuildImage { recipe, source } => disk.build_image(recipe, source, progress).await,
        Action::RemoveKernel { recipe } => disk.remove(&DiskRemoval::Kernel(recipe.clone())).await,
        Action::RemoveImage { recipe } => disk.remove(&DiskRemoval::Image(recipe.clone())).await,
        Action::CreateVolume { volume, size } | Action::GrowVolume { volume, size, .. } => {
            disk.ensure_disk(&DiskTarget::Volume(volume.clone()), *size).await
        }
        Action::RemoveVolume { volume } => disk.remove(&DiskRemoval::Volume(volume.clone())).await,
        Action::CreateDisk { sandbox, size, recipe, content, origin } => {
            let content = content.clone().ok_or_else(|| early(action))?;
            let (sandbox, recipe) = (sandbox.clone(), recipe.clone());
            disk.ensure_disk(
                &DiskTarget::Sandbox { sandbox, recipe, content, origin: origin.clone() },
                *size,
            )
            .await
        }
        Action::GrowDisk { sandbox, size, recipe, content, origin, .. } => {
            let (recipe, content) = (recipe.clone(), content.clone());
            let target = DiskTarget::Sandbox {
                sandbox: sandbox.clone(),
                recipe,
                content,
                origin: origin.clone(),
            };
            disk.ensure_disk(&target, *size).await
        }
        Action::RemoveDisk { sandbox, .. } => {
            disk.remove(&DiskRemoval::Sandbox(sandbox.clone())).await
        }
        Action::EnsureBridge { subnet } => net.change(NetChange::EnsureBridge(*subnet)).await,
        Action::RemoveBridge => net.change(NetChange::RemoveBridge).await,
        Action::ApplyRules { subnet, policy } => {
            net.change(NetChange::ApplyRules(*subnet, policy.as_ref().clone())).await
        }
        Action::RemoveRules => net.change(NetChange::RemoveRules).await,
        Action::RouteNames => net.change(NetChange::RouteNames).await,
        Action::EnsureTap { sandbox } => net.change(NetChange::EnsureTap(sandbox.clone())).await,
        Action::RaiseTap { sandbox } => net.change(NetChange::SetTap(sandbox.clone(), true)).await,
        Action::CutTap { sandbox } => net.change(NetChange::SetTap(sandbox.clone(), false)).await,
        Action::RemoveTap { sandbox } => net.change(NetChange::RemoveTap(sandbox.clone())).await,
        Action::StartVmm { boot, cold, wakes, .. } => {
            let begin = match (wakes, cold) {
                (true, _) => Begin::Memory,
                (false, true) => Begin::Boot,
                (false, false) => Begin::Template,
            };
            vmm.start(boot.as_ref().ok_or_else(|| early(action))?, begin).await
        }
        Action::KeepTemplate { sandbox } => vmm.keep_template(sandbox).await,
        Action::DropMemory { memory } => vmm.drop_memory(memory).await,
        Action::SyncGuest { sandbox } => guest.sync(sandbox).await,
        Action::Suspend { sandbox } => vmm.suspend(sandbox).await,
        Action::TakeSnapshot { snapshot, sandbox, memory, .. } => {
            vmm.take_snapshot(snapshot, sandbox, *memory).await
        }
        Action::RemoveSnapshot { snapshot } => {
            disk.remove(&DiskRemoval::Snapshot(snapshot.clone())).await
        }
        Action::ForgetMemory { sandbox } => vmm.forget_memory(sandbox).await,
        Action::StopVmm { sandbox, kill } => vmm.stop(sandbox, *kill).await,
        Action::RemoveRun { sandbox } => vmm.remove_run(sandbox).await,
        Action::ShutdownGuest { sandbox } => guest.shut_down(sandbox).await,
        Action::Identify { sandbox, generation, nic, config } => {
            let identity = identity(desired, sandbox, *generation, *nic, config, moment)?;
            guest.identify(sandbox, identity).await
        }
        Action::ShipWorkspace { sandbox, workspace } => {
            guest.ship(sandbox, workspace, progress).await
        }
        Action::Publish { sandbox, host, guest } => net.publish(sandbox, *host, *guest).await,
        Action::Unpublish { sandbox, host } => net.unpublish(sandbox, *host).await,
    }
}

/// A step of a list that still waits: the engine never takes one.
fn early(action: &Action) -> Fault {
    let kind = ProblemKind::Internal;
    Fault { kind, ..Fault::host(format!("\"{action}\" came before what it needs")) }
}

/// What makes a waiting guest this sandbox.
fn identity(
    desired: &Desired,
    sandbox: &SandboxId,
    generation: Generation,
    nic: Nic,
    config: &ImageConfig,
    moment: &dyn Moment,
) -> Result<Identity, Fault> {
    let wanted = desired.sandboxes.get(sandbox).filter(|wanted| wanted.generation == generation);
    let wanted = wanted.ok_or_else(|| Fault::host("its desired state changed meanwhile"))?;
    let spec = &wanted.spec;
    let ready = spec.ready.as_ref();
    let at = spec.workspace.as_ref().map(|workspace| workspace.at.clone());
    Ok(Identity {
        generation,
        sandbox: Some(sandbox.clone()),
        hostname: wanted.name.to_string(),
        env: service::environment(spec, config),
        volumes: spec.volumes.iter().map(|mount| mount.at.clone()).collect(),
        provision: spec.provision.clone(),
        provision_digest: recipe::digest(&spec.provision).to_string(),
        command: service::command(spec, config),
        user: spec.user.clone().or_else(|| config.user.clone()),
        workdir: spec.workdir.clone().or_else(|| at.clone()).or_else(|| config.workdir.clone()),
        workspace: at,
        stop_signal: spec.stop_signal.or(config.stop_signal).unwrap_or(Signal::Term),
        image_service: service::is_images_own(spec),
        ssh: moment.ssh(sandbox),
        network: network(desired, wanted, nic),
        ready: ready.map(|r| ReadyProbe { exec: r.exec.clone(), timeout_secs: r.timeout_secs }),
        // The driver knows.
        woken: false,
        clock_ns: moment.clock_ns(),
        entropy: moment.entropy(),
    })
}

/// How a guest sets up its card.
fn network(desired: &Desired, sandbox: &DesiredSandbox, nic: Nic) -> Option<Network> {
    let mac = Some(banger_wire::derive::mac(&sandbox.id));
    match (nic, desired.subnet) {
        (Nic::Tap, Some(subnet)) => {
            // Everything goes by the gateway, also to neighbours: ports are isolated.
            let (address, gateway) = (subnet.address(sandbox.host), subnet.gateway());
            Some(Network { mac, address, prefix: 32, gateway })
        }
        (Nic::User, _) => {
            // What QEMU's own stack gives out.
            let (address, gateway) = ([10, 0, 2, 15].into(), [10, 0, 2, 2].into());
            Some(Network { mac, address, prefix: 24, gateway })
        }
        (Nic::Tap, None) | (Nic::None, _) => None,
    }
}
