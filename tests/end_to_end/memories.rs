//! Memories that root keeps: what a machine that was taken over leaves in the place of its own is not copied, and what is done
//! again changes nothing.

use super::owner::{Ground, machine};
use banger_wire::helper::{Memory, MemoryOf, Purpose, Reply, Request};
use banger_wire::id::{Digest, SandboxId};
use banger_wire::machine::{BootKey, MEMORY, STATE, WRITTEN_MEMORY, WRITTEN_STATE};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

const OWNER: u32 = 60_107;
const STRANGER: u32 = 60_108;
const SIZE: u64 = 128 << 20;

/// Puts something at a place.
type Put = Box<dyn Fn(&Path)>;

/// A file of so many bytes with something in it.
fn sized(size: u64) -> Put {
    Box::new(move |place| {
        let file = File::create_new(place).expect("a file");
        file.set_len(size).expect("a size");
        file.write_all_at(b"x", size / 2).expect("writes");
    })
}

/// What is no state and no memory of that machine, whoever says so.
fn things(outside: &Path) -> Vec<(&'static str, Put)> {
    let secret = outside.join("secret");
    fs::write(&secret, vec![b's'; 4096]).expect("writes");
    let large = outside.join("large");
    sized(SIZE)(&large);
    let link = |to: &Path| -> Put {
        let to = to.to_path_buf();
        Box::new(move |place| symlink(&to, place).expect("links"))
    };
    let hard = |to: &Path| -> Put {
        let to = to.to_path_buf();
        Box::new(move |place| fs::hard_link(&to, place).expect("links"))
    };
    let owned = |uid: u32, size: u64| -> Put {
        Box::new(move |place| {
            sized(size)(place);
            lchown(place, Some(uid), Some(uid)).expect("theirs");
        })
    };
    vec![
        ("nothing", Box::new(|_| ())),
        ("a link to a secret", link(&secret)),
        ("a link to a memory", link(&large)),
        ("a link to a descriptor", link(Path::new("/proc/self/fd/0"))),
        ("another name of a secret", hard(&secret)),
        ("another name of a memory", hard(&large)),
        ("a FIFO", Box::new(|p| mknodat(CWD, p, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO"))),
        ("a folder", Box::new(|place| fs::create_dir(place).expect("a folder"))),
        ("a socket", Box::new(|place| drop(UnixListener::bind(place).expect("binds")))),
        ("root's, small", owned(0, 4096)),
        ("root's, large", owned(0, SIZE)),
        ("another's, small", owned(STRANGER, 4096)),
        ("another's, large", owned(STRANGER, SIZE)),
        ("one byte less", sized(SIZE - 1)),
        ("one byte more", sized(SIZE + 1)),
        ("a terabyte of nothing", sized(1 << 40)),
    ]
}

#[test]
fn what_a_machine_leaves_in_the_place_of_its_memory_is_not_kept() {
    let Some(ground) = Ground::new() else { return };
    let owner = ground.owner(OWNER, 0x3e3);
    let helper = owner.helper();
    let sandbox = SandboxId::from_bits(0x3e3);
    assert_eq!(owner.start(&helper, &sandbox), Reply::Changed);
    let (jail, root) = owner.jail(&sandbox);
    let uid = fs::metadata(&root).expect("a root").uid();
    // As root writes it down for machines whose memory can be kept.
    let record = jail.join("record");
    let text = fs::read(&record).expect("reads");
    let mut value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert!(value["make"].is_null(), "{value}");
    let key = BootKey::try_from("00112233445566778899aabbccddeeff"[..BootKey::LENGTH].to_string());
    let key = key.expect("good");
    let digest = Digest::from_bytes(&[7; 32]);
    let of = MemoryOf {
        purpose: Purpose::Guest,
        kernel: digest.clone(),
        image: digest.clone(),
        programs: digest,
    };
    let keep =
        Request::MemoryKeep { sandbox: sandbox.clone(), memory: key.clone(), of: of.clone() };
    assert!(matches!(helper.ask(&keep, &[]), Reply::Refused { .. }), "QEMU's cannot be kept");
    value["make"] = serde_json::json!({
        "cpus": 1, "memory_mib": machine().memory_mib, "disks": 1, "read_only": 0, "has_card": false
    });
    fs::write(&record, value.to_string()).expect("writes");

    let outside = ground.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    let put = |name: &str, what: &Put| {
        let place = root.join(name);
        what(&place);
        // The machine's own, unless that is what is wrong with it.
        let fresh = fs::symlink_metadata(&place).is_ok_and(|m| m.uid() == 0 && m.nlink() == 1);
        if fresh {
            lchown(&place, Some(uid), Some(uid)).expect("the machine's");
        }
    };
    let clear = || {
        for name in [WRITTEN_STATE, WRITTEN_MEMORY] {
            let place = root.join(name);
            let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir(&place));
        }
    };
    let store = jail.parent().expect("a parent").with_file_name(format!(
        "{}-memories",
        jail.parent().and_then(Path::file_name).expect("a name").display()
    ));
    let (good_state, good_memory) = (sized(4096), sized(SIZE));
    let all = things(&outside);
    let look = || {
        ["secret", "large"].map(|name| {
            let meta = fs::metadata(outside.join(name)).expect("there");
            (meta.mode(), meta.uid(), meta.gid(), meta.len(), meta.mtime(), meta.nlink())
        })
    };
    let before = look();
    let mut refused = 0;
    for (what, thing) in &all {
        for wrong in [WRITTEN_STATE, WRITTEN_MEMORY] {
            // What is a good state may be no memory, and the other way round.
            let root_owned = what.starts_with("root's");
            let place = root.join(wrong);
            put(WRITTEN_STATE, if wrong == WRITTEN_STATE { thing } else { &good_state });
            put(WRITTEN_MEMORY, if wrong == WRITTEN_MEMORY { thing } else { &good_memory });
            if root_owned {
                lchown(&place, Some(0), Some(0)).expect("root's");
            }
            let begun = Instant::now();
            let said = helper.ask(&keep, &[]);
            let no = matches!(said, Reply::Refused { .. } | Reply::Failed { .. });
            assert!(no, "{what} as {wrong}: {said:?}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{what} as {wrong}");
            assert_eq!(
                helper.ask(&Request::MemoryList {}, &[]),
                Reply::Memories { memories: vec![] }
            );
            let left = fs::read_dir(&store).into_iter().flatten().flatten();
            assert_eq!(left.count(), 0, "{what} as {wrong}");
            refused += 1;
            clear();
        }
    }
    assert_eq!(refused, 32);
    assert_eq!(look(), before, "nobody touched what is not the machine's");

    // The same with nothing wrong; and each operation three times (R-H6).
    for again in [Reply::Changed, Reply::Unchanged, Reply::Unchanged] {
        put(WRITTEN_STATE, &good_state);
        put(WRITTEN_MEMORY, &good_memory);
        assert_eq!(helper.ask(&keep, &[]), again);
        assert!(!root.join(WRITTEN_STATE).exists() && !root.join(WRITTEN_MEMORY).exists());
    }
    let own = store.join(key.as_str());
    for (name, size) in [(STATE, 4096), (MEMORY, SIZE)] {
        let meta = fs::metadata(own.join(name)).expect("kept");
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (0, 0o444));
        let (mut byte, at) = ([0], size / 2);
        File::open(own.join(name)).expect("opens").read_exact_at(&mut byte, at).expect("reads");
        assert_eq!((meta.len(), &byte), (size, b"x"));
        assert!(meta.blocks() * 512 <= 64 << 10, "empty pages are not copied");
    }
    let Reply::Memories { memories } = helper.ask(&Request::MemoryList {}, &[]) else { panic!() };
    assert!(
        matches!(&memories[..], [Memory { memory, of: kept, .. }] if *memory == key && *kept == of)
    );
    let drop = Request::MemoryDrop { memory: key };
    for again in [Reply::Changed, Reply::Unchanged, Reply::Unchanged] {
        assert_eq!(helper.ask(&drop, &[]), again);
    }
    assert!(!store.exists());
    assert_eq!(helper.ask(&Request::VmRemove { sandbox }, &[]), Reply::Changed);
    helper.hang_up();
    ground.assert_empty();
}
