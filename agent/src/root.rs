//! The guest's root: the image's read-only disk below, the sandbox's own disk above, volumes inside.

use crate::boot::{NEW_ROOT, mount_kind};
use crate::{Error, at, sys};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{chdir, chroot};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

/// The sandbox's own disk, outside of the root that its processes see.
const DISK: &str = "/disk";
const IMAGE: &str = "/image";

/// Mounts everything and enters it. The folder that comes back is on the sandbox's own disk, hidden from the guest.
pub(crate) fn enter(volumes: &[String]) -> Result<File, Error> {
    for folder in [IMAGE, DISK, NEW_ROOT] {
        at(folder, fs::create_dir_all(folder))?;
    }
    device("/dev/vda", Path::new(IMAGE), MsFlags::MS_RDONLY)?;
    device("/dev/vdb", Path::new(DISK), MsFlags::empty())?;
    grow(Path::new(DISK), "/dev/vdb")?;
    for folder in ["/disk/upper", "/disk/work", "/disk/banger"] {
        at(folder, fs::create_dir_all(folder))?;
    }
    let options = "lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work";
    let overlay =
        mount(Some("overlay"), NEW_ROOT, Some("overlay"), MsFlags::empty(), Some(options));
    at("joining image and disk", overlay)?;
    for (index, target) in volumes.iter().enumerate() {
        let letter = char::from(b'c' + u8::try_from(index).unwrap_or(0));
        let target = folder_inside(Path::new(NEW_ROOT), Path::new(target))?;
        let disk = format!("/dev/vd{letter}");
        device(&disk, &target, MsFlags::empty())?;
        grow(&target, &disk)?;
    }
    for (kind, target) in [
        ("devtmpfs", "dev"),
        ("devpts", "dev/pts"),
        ("tmpfs", "dev/shm"),
        ("proc", "proc"),
        ("sysfs", "sys"),
        ("tmpfs", "run"),
    ] {
        let target = folder_inside(Path::new(NEW_ROOT), &Path::new("/").join(target))?;
        at(format!("mounting {}", target.display()), mount_kind(kind, &target))?;
    }
    let hidden = at("/disk/banger", File::open("/disk/banger"))?;
    at("entering the root", chroot(NEW_ROOT).and_then(|()| chdir("/")))?;
    let _ = fs::create_dir_all("/run/lock");
    Ok(hidden)
}

fn device(device: &str, target: &Path, flags: MsFlags) -> Result<(), Error> {
    // What was read of it when the kernel found it may be another disk's: memory can be older than the machine.
    let disk = at(device, File::open(device))?;
    at(device, sys::forget_blocks(disk.as_fd()))?;
    let mounted = mount(Some(device), target, Some("ext4"), flags, None::<&str>);
    at(format!("mounting {device} at {}", target.display()), mounted)
}

/// Makes a folder below `root` without ever leaving it: a link on the way counts from `root`.
fn folder_inside(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let mut todo: Vec<PathBuf> = vec![path.to_path_buf()];
    let mut here = root.to_path_buf();
    let mut links = 0;
    while let Some(next) = todo.pop() {
        for (index, part) in next.components().enumerate() {
            match part {
                Component::RootDir => here = root.to_path_buf(),
                Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    if here != root {
                        here.pop();
                    }
                }
                Component::Normal(name) => {
                    here.push(name);
                    let Ok(target) = fs::read_link(&here) else { continue };
                    links += 1;
                    if links > 40 {
                        return Err(format!("{}: too many links", path.display()).into());
                    }
                    here.pop();
                    todo.push(next.components().skip(index + 1).collect());
                    todo.push(target);
                    break;
                }
            }
        }
    }
    at(here.display(), fs::create_dir_all(&here))?;
    Ok(here)
}

/// Grows the filesystem when its device has become larger.
fn grow(folder: &Path, device: &str) -> Result<(), Error> {
    let name = device.trim_start_matches("/dev/");
    let sectors = at(device, fs::read_to_string(format!("/sys/block/{name}/size")))?;
    let bytes = sectors.trim().parse::<u64>().unwrap_or(0) * 512;
    let open = at(folder.display(), File::open(folder))?;
    let stat = at(folder.display(), fstatvfs(&open))?;
    let blocks = bytes / stat.fragment_size().max(1);
    // It finds nothing to do where the device is no larger than the filesystem.
    if let Err(error) = sys::grow_ext4(open.as_fd(), blocks) {
        eprintln!("banger-agent: growing {device} to {blocks} blocks: {error}");
    }
    Ok(())
}
