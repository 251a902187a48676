//! How QEMU's `microvm` and the vsock device beside it are called: a fixed template that only a machine's numbers, its id
//! and its kernel's words enter. Both are started in the machine's folder, so every file has its fixed name.

use crate::derive::{mac, show_mac};
use crate::id::SandboxId;
use crate::machine::{AGENT, CONSOLE_SOCKET, Card, INITRAMFS, KERNEL, Machine, VHOST, disk};

/// Memory for translated code under emulation, in MiB.
pub const TRANSLATIONS_MIB: u32 = 256;

/// The arguments of `vhost-device-vsock`.
pub fn vsock_arguments(machine: &Machine) -> Vec<String> {
    let cid = machine.cid;
    vec!["--vm".into(), format!("guest-cid={cid},uds-path={AGENT},socket={VHOST}")]
}

/// The arguments of `qemu-system-x86_64`. A tap comes as standard input.
pub fn arguments(id: &SandboxId, machine: &Machine) -> Vec<String> {
    let mib = machine.memory_mib;
    let (accelerator, cpu) = match machine.kvm {
        true => ("kvm".to_string(), "host"),
        false => (format!("tcg,tb-size={TRANSLATIONS_MIB},thread=multi"), "max"),
    };
    let mut arguments: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(String::from)
    .to_vec();
    let mut option = |name: &str, value: String| arguments.extend([format!("-{name}"), value]);
    option("name", format!("banger-{id}"));
    option("machine", "microvm,memory-backend=memory".into());
    option("accel", accelerator);
    option("cpu", cpu.into());
    option("smp", machine.cpus.to_string());
    option("m", format!("{mib}M"));
    option("object", format!("memory-backend-memfd,id=memory,size={mib}M,share=on"));
    option("kernel", KERNEL.into());
    option("initrd", INITRAMFS.into());
    option("append", machine.words.as_str().into());
    option("chardev", format!("socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off"));
    option("serial", "chardev:console".into());
    option("chardev", format!("socket,id=vsock,path={VHOST}"));
    option("device", "vhost-user-vsock-device,chardev=vsock".into());
    let card = match machine.card {
        Card::None => None,
        Card::Tap => Some("tap,id=net,fd=0"),
        Card::User => Some("user,id=net"),
    };
    if let Some(card) = card {
        let mac = show_mac(mac(id));
        option("netdev", card.into());
        option("device", format!("virtio-net-device,netdev=net,mac={mac}"));
    }
    for index in 0..machine.disks {
        let access = if machine.is_read_only(index) { "on" } else { "off" };
        let file = disk(usize::from(index));
        let rate = match u64::from(machine.disk_rate_mib) << 20 {
            0 => String::new(),
            bytes => format!(",throttling.bps-total={bytes}"),
        };
        option(
            "drive",
            format!(
                "if=none,id=disk{index},format=raw,readonly={access},cache=writeback{rate},file={file}"
            ),
        );
        option("device", format!("virtio-blk-device,drive=disk{index}"));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Backend, KernelWords};

    fn machine() -> Machine {
        Machine {
            boot: "0123456789abcdef".to_string().try_into().expect("a key"),
            backend: Backend::Qemu,
            kvm: false,
            cpus: 2,
            memory_mib: 512,
            cid: 7,
            card: Card::Tap,
            disks: 2,
            read_only: 1,
            words: KernelWords::try_from("quiet a=b,c".to_string()).expect("words"),
            disk_rate_mib: 0,
            net_rate_mib: 0,
            from: None,
        }
    }

    fn told(machine: &Machine) -> String {
        let id = "5JHRXSAG1EHESK4JY5BT4BDXS8".parse().expect("an id");
        let lines = arguments(&id, machine);
        lines.join("\n").replace("\n-", " -").replace('\n', "=")
    }

    const TAP: &str = "-nodefaults -no-user-config -no-reboot -display=none \
        -sandbox=on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
        -name=banger-5JHRXSAG1EHESK4JY5BT4BDXS8 -machine=microvm,memory-backend=memory \
        -accel=tcg,tb-size=256,thread=multi -cpu=max -smp=2 -m=512M \
        -object=memory-backend-memfd,id=memory,size=512M,share=on \
        -kernel=kernel -initrd=initramfs -append=quiet a=b,c \
        -chardev=socket,id=console,path=console.sock,server=on,wait=off -serial=chardev:console \
        -chardev=socket,id=vsock,path=vhost.sock -device=vhost-user-vsock-device,chardev=vsock \
        -netdev=tap,id=net,fd=0 -device=virtio-net-device,netdev=net,mac=02:5e:88:b6:f7:28 \
        -drive=if=none,id=disk0,format=raw,readonly=on,cache=writeback,file=disk0 \
        -device=virtio-blk-device,drive=disk0 \
        -drive=if=none,id=disk1,format=raw,readonly=off,cache=writeback,file=disk1 \
        -device=virtio-blk-device,drive=disk1";

    #[test]
    fn qemu_is_told_the_same_but_for_a_machines_values() {
        assert_eq!(told(&machine()), TAP);
        let card = "-netdev=tap,id=net,fd=0";
        let user = Machine { card: Card::User, ..machine() };
        assert_eq!(told(&user), TAP.replace(card, "-netdev=user,id=net"));
        let kvm = Machine { kvm: true, ..machine() };
        let on_kvm =
            TAP.replace("tcg,tb-size=256,thread=multi", "kvm").replace("cpu=max", "cpu=host");
        assert_eq!(told(&kvm), on_kvm);
        let held = Machine { disk_rate_mib: 3, ..machine() };
        let rate = "cache=writeback,throttling.bps-total=3145728";
        assert_eq!(told(&held), TAP.replace("cache=writeback", rate));
    }
}
