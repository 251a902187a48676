//! Names that need no declaration: a Bangerfile fragment that is part of the program.

use crate::Language;
use crate::spec::{ImageSpec, KernelSpec, Spec};
use banger_wire::id::Name;
use std::sync::LazyLock;

/// The image of a sandbox that names none, as `vm run` may.
pub const DEFAULT_IMAGE: &str = "debian-bookworm";
/// The kernel of an image that names none.
pub const DEFAULT_KERNEL: &str = "debian-cloud";

static EMBEDDED: LazyLock<Spec> = LazyLock::new(|| {
    let text = include_str!("catalog.kdl");
    crate::parse_beside("catalog.kdl", text, Language::Kdl, &Spec::default())
        .expect("the catalog is tested to parse")
});

/// The fragment itself.
pub fn embedded() -> &'static Spec {
    &EMBEDDED
}

/// The image of this name: the file's own, else the catalog's.
pub fn image<'a>(spec: &'a Spec, name: &Name) -> Option<&'a ImageSpec> {
    spec.images.get(name).or_else(|| embedded().images.get(name))
}

/// The kernel of this name: the file's own, else the catalog's.
pub fn kernel<'a>(spec: &'a Spec, name: &Name) -> Option<&'a KernelSpec> {
    spec.kernels.get(name).or_else(|| embedded().kernels.get(name))
}
