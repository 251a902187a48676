//! The programs that run guests. Whoever starts the helper names them, in its environment, by their full paths; no message
//! can. Each must be root's alone, and so must be every folder above it: then it is the same when it is run.

use banger_wire::machine::Version;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A program that the helper may run: the variable that names it, and where it is without that.
struct Known {
    variable: &'static str,
    otherwise: &'static str,
}

const FIRECRACKER: Known =
    Known { variable: "BANGER_FIRECRACKER", otherwise: "/usr/local/bin/firecracker" };
const JAILER: Known = Known { variable: "BANGER_JAILER", otherwise: "/usr/local/bin/jailer" };
const QEMU: Known = Known { variable: "BANGER_QEMU", otherwise: "/usr/bin/qemu-system-x86_64" };
const VSOCK: Known =
    Known { variable: "BANGER_VSOCK", otherwise: "/usr/local/bin/vhost-device-vsock" };

impl Known {
    fn find(&self) -> Result<PathBuf, String> {
        let named = std::env::var_os(self.variable).filter(|path| !path.is_empty());
        let path = named.map_or_else(|| PathBuf::from(self.otherwise), PathBuf::from);
        // Links are followed here, once: what is run is what was looked at.
        let whole =
            fs::canonicalize(&path).map_err(|_| format!("{} is not there", path.display()))?;
        match not_roots(&whole) {
            None => Ok(whole),
            Some(why) => Err(why),
        }
    }
}

/// Who else than root could change a file, or put another in its place: its path and the reason. None when nobody could.
pub(crate) fn not_roots(path: &Path) -> Option<String> {
    for (index, part) in path.ancestors().enumerate() {
        let Ok(meta) = fs::symlink_metadata(part) else {
            return Some(format!("{} cannot be looked at", part.display()));
        };
        // In a folder with the sticky bit nobody else can rename or remove what is root's.
        let sticky = index > 0 && meta.mode() & 0o1000 != 0;
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 && !sticky {
            return Some(format!("others than root can write {}", part.display()));
        }
    }
    None
}

/// Firecracker and its jailer.
#[derive(Debug, Clone)]
pub(crate) struct Firecracker {
    pub(crate) firecracker: PathBuf,
    pub(crate) jailer: PathBuf,
    pub(crate) version: Version,
}

/// Firecracker, when it can be used here. Looked for once.
pub(crate) fn firecracker() -> &'static Result<Firecracker, String> {
    static FOUND: OnceLock<Result<Firecracker, String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let (firecracker, jailer) = (FIRECRACKER.find()?, JAILER.find()?);
        let version = version(&firecracker)?;
        if self::version(&jailer)? != version {
            return Err("firecracker and jailer are of different releases".to_string());
        }
        match version.refusal() {
            None => Ok(Firecracker { firecracker, jailer, version }),
            Some(why) => Err(why),
        }
    })
}

fn version(program: &Path) -> Result<Version, String> {
    let asked = Command::new(program).arg("--version").env_clear().stdin(Stdio::null()).output();
    let said = asked.map_err(|error| format!("{}: {error}", program.display()))?;
    Version::parse(&String::from_utf8_lossy(&said.stdout))
        .ok_or_else(|| format!("{} does not say its version", program.display()))
}

/// QEMU and its vsock device.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    pub(crate) qemu: PathBuf,
    pub(crate) vsock: PathBuf,
}

/// QEMU, when it can be used here.
pub(crate) fn qemu() -> Result<Qemu, String> {
    Ok(Qemu { qemu: QEMU.find()?, vsock: VSOCK.find()? })
}
