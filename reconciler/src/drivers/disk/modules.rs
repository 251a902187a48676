//! Which modules a guest needs and in which order, from the kernel's own `modules.dep`.

use std::collections::BTreeMap;

/// What a guest cannot do without: its bus, its disks, its line to the host, its root; and its network card.
const NEEDED: [&str; 6] =
    ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "overlay", "ext4", "virtio_net"];

/// The same, with the symbol of each in a kernel's configuration and the name that it has in a kernel's image.
pub(super) const SYMBOLS: [(&str, &str, &str); 6] = [
    ("virtio_mmio", "VIRTIO_MMIO", "virtio-mmio"),
    ("virtio_blk", "VIRTIO_BLK", "virtio_blk"),
    ("vmw_vsock_virtio_transport", "VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport"),
    ("overlay", "OVERLAY_FS", "overlay"),
    ("ext4", "EXT4_FS", "ext4"),
    ("virtio_net", "VIRTIO_NET", "virtio_net"),
];

/// A kernel's own lists.
pub(super) struct Modules {
    /// `modules.dep`: each module with the ones that must be loaded before it, nearest first.
    pub(super) dependencies: String,
    /// `modules.builtin`: what needs no module.
    pub(super) builtin: String,
}

/// Paths below the kernel's module folder, in the order of loading.
///
/// # Errors
/// With the name of a driver that the kernel has neither as a module nor built in.
pub(super) fn order(modules: &Modules) -> Result<Vec<String>, String> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in modules.dependencies.lines() {
        if let Some((module, before)) = line.split_once(':') {
            needs.insert(module.trim(), before.split_whitespace().collect());
        }
    }
    let mut order: Vec<String> = Vec::new();
    for name in NEEDED {
        let Some((module, before)) = needs.iter().find(|(path, _)| driver(path) == name) else {
            if modules.builtin.lines().any(|path| driver(path.trim()) == name) {
                continue;
            }
            return Err(name.to_string());
        };
        for path in before.iter().rev().chain([module]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_string());
            }
        }
    }
    Ok(order)
}

/// Where the drivers are that guests need.
pub(super) fn drivers(modules: &Modules) -> Vec<(String, String)> {
    let module = |name: &str| {
        let paths = modules.dependencies.lines().filter_map(|line| line.split_once(':'));
        paths.map(|(path, _)| driver(path.trim())).any(|known| known == name)
    };
    let how = |name: &str| if module(name) { "a module" } else { "built in" };
    NEEDED.iter().map(|name| (name.to_string(), how(name).to_string())).collect()
}

/// The driver's name: `kernel/drivers/block/virtio-blk.ko.xz` is `virtio_blk`.
fn driver(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/block/virtio-blk.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vsock.ko
kernel/net/vsock.ko:
kernel/fs/overlay.ko:
kernel/drivers/net/virtio_net.ko:
";

    #[test]
    fn dependencies_come_first_and_once() {
        let modules =
            Modules { dependencies: DEP.into(), builtin: "kernel/fs/ext4/ext4.ko\n".into() };
        let order = order(&modules).expect("everything is there");
        let names: Vec<String> = order.iter().map(|path| driver(path)).collect();
        assert_eq!(
            names,
            [
                "virtio_ring",
                "virtio",
                "virtio_mmio",
                "virtio_blk",
                "vsock",
                "vmw_vsock_virtio_transport",
                "overlay",
                "virtio_net"
            ]
        );
    }

    #[test]
    fn a_kernel_without_a_driver_is_named() {
        let modules = Modules { dependencies: DEP.into(), builtin: String::new() };
        assert_eq!(order(&modules), Err("ext4".to_string()));
    }
}
