//! What is made of a boot: a machine, its files, and what they are known by.

use super::{Processes, WORDS};
use crate::drivers::disk;
use crate::fault::{During, Fault};
use crate::host::{self, Acceleration};
use crate::kernel_image;
use banger_plan::boot::Boot;
use banger_wire::helper::MemoryOf;
use banger_wire::machine::{Backend, BootKey, KernelWords, Machine};
use banger_wire::size::Mib;
use std::fs::File;
use std::path::{Path, PathBuf};

fn in_second(rate: Mib) -> u32 {
    u32::try_from(rate.get()).unwrap_or(u32::MAX)
}

impl Processes {
    /// What a boot is, as machine and files.
    pub(super) async fn machine(&self, boot: &Boot) -> Result<(Machine, Vec<PathBuf>), Fault> {
        let kernel = self.folders.kernel(&boot.kernel);
        let elf = kernel.join("vmlinux");
        // Firecracker takes nothing else. QEMU enters most of them, too, and then nothing is decompressed by the guest.
        let enters = || File::open(&elf).is_ok_and(|elf| kernel_image::has_pvh_entry(&elf));
        let image = match boot.backend {
            Backend::Qemu if !enters() => kernel.join("vmlinuz"),
            Backend::Qemu | Backend::Firecracker => elf,
        };
        if !image.exists() {
            return Err(Fault::host("its kernel cannot be booted by Firecracker")
                .hint("banger kernel show says why; vmm \"qemu\" runs it"));
        }
        let (all, content, agent) = (self.folders.clone(), boot.kernel.clone(), self.agent.clone());
        let initramfs =
            tokio::task::spawn_blocking(move || disk::ensure_initramfs(&all, &content, &agent))
                .await
                .map_err(|error| Fault::host(format!("file work: {error}")))??;
        let mut files = vec![image, initramfs];
        files.extend(self.disks(boot)?);
        let kvm = boot.backend == Backend::Firecracker || self.acceleration == Acceleration::Kvm;
        let machine = Machine {
            boot: boot.key(),
            backend: boot.backend,
            kvm,
            cpus: boot.cpus,
            memory_mib: u32::try_from(boot.memory.get()).unwrap_or(u32::MAX),
            cid: boot.cid.get(),
            card: boot.nic.into(),
            disks: u8::try_from(files.len() - 2).unwrap_or(u8::MAX),
            read_only: 1,
            words: self.words(boot.backend, &kernel)?,
            disk_rate_mib: boot.rates.0.map_or(0, in_second),
            net_rate_mib: boot.rates.1.map_or(0, in_second),
            from: None,
        };
        machine.check().map_err(Fault::user)?;
        Ok((machine, files))
    }

    /// What template a boot's machine has.
    pub(super) fn template_of(&self, boot: &Boot) -> Result<(BootKey, MemoryOf), Fault> {
        let disks = self.disks(boot)?;
        let size = |path: &PathBuf| {
            let meta = std::fs::metadata(path).during(|| format!("looking at {}", path.display()));
            meta.map(|meta| meta.len())
        };
        let sizes = disks.iter().map(size).collect::<Result<Vec<_>, Fault>>()?;
        Ok(self.templates.key(boot, &sizes))
    }

    /// The files of a boot's disks, in order.
    pub(super) fn disks(&self, boot: &Boot) -> Result<Vec<PathBuf>, Fault> {
        let folder = self.folders.sandbox(&boot.sandbox);
        let own = std::fs::read_dir(&folder).during(|| format!("reading {}", folder.display()))?;
        let disk = own.flatten().map(|entry| entry.path()).find(|path| {
            path.extension().is_some_and(|extension| extension == "ext4")
                && path.to_string_lossy().contains(boot.image.as_str())
        });
        let disk = disk.ok_or_else(|| Fault::host("its disk is not there"))?;
        let mut disks = vec![self.folders.image(&boot.image), disk];
        disks.extend(boot.volumes.iter().map(|(volume, _)| self.folders.volume(volume)));
        Ok(disks)
    }

    /// The words of a kernel's command line.
    fn words(&self, backend: Backend, kernel: &Path) -> Result<KernelWords, Fault> {
        let mut words = match backend {
            // Its guests end by a reset of the keyboard's controller: it has no other way off.
            Backend::Firecracker => "console=ttyS0 quiet reboot=k panic=-1 random.trust_cpu=1 i8042.noaux i8042.nomux i8042.dumbkbd",
            Backend::Qemu => "console=ttyS0 quiet reboot=t panic=-1 random.trust_cpu=1",
        }
        .to_string();
        if let (Backend::Qemu, Acceleration::Tcg, Some(khz)) =
            (backend, self.acceleration, host::tsc_khz())
        {
            words.push_str(&format!(" tsc_early_khz={khz}"));
        }
        let own = std::fs::read_to_string(kernel.join(WORDS)).unwrap_or_default();
        for word in own.split_whitespace() {
            words.push_str(&format!(" {word}"));
        }
        KernelWords::try_from(words).map_err(Fault::user)
    }
}
