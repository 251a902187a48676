use super::*;
use std::io::{Cursor, Seek, SeekFrom};
use std::process::Command;

pub(crate) fn make(layers: Vec<Vec<u8>>) -> Result<(Built, tempfile::NamedTempFile), Error> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let out = file.reopen().expect("opens");
    let layers = layers
        .into_iter()
        .map(|bytes| Layer { read: Box::new(Cursor::new(bytes)), diff_id: None })
        .collect();
    let built = build(layers, out, &Limits::default(), &|_| {})?;
    Ok((built, file))
}

fn check(path: &std::path::Path) {
    let said = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(path).output().expect("e2fsck");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

fn debugfs(path: &std::path::Path, line: &str) -> String {
    let said = Command::new("/usr/sbin/debugfs").args(["-R", line]).arg(path).output();
    String::from_utf8_lossy(&said.expect("debugfs").stdout).into_owned()
}

fn run(folder: &std::path::Path, line: &str) {
    let status = Command::new("sh").args(["-ec", line]).current_dir(folder).status();
    assert!(status.expect("sh").success(), "{line}");
}

#[test]
fn an_ordinary_archive_becomes_a_clean_filesystem() {
    let folder = tempfile::tempdir().expect("a folder");
    run(
        folder.path(),
        "mkdir -p t/a/b t/many; cd t; echo hello > a/b/hello; ln a/b/hello a/again; \
         ln -s /etc/nowhere link; ln -s $(printf 'x%.0s' $(seq 1 300)) long; mkfifo pipe; \
         for i in $(seq 1 2000); do : > many/some-rather-long-name-of-a-file-$i; done; \
         head -c 300000000 /dev/zero | tr '\\0' 'z' > large; truncate -s 1G sparse; printf end >> sparse; \
         chmod 4755 a/b/hello; touch -d '1960-01-01' a/old; cd ..; \
         tar --sparse --format=posix -cf t.tar -C t .",
    );
    let tar = std::fs::read(folder.path().join("t.tar")).expect("reads");
    let (built, file) = make(vec![tar]).expect("builds");
    check(file.path());
    assert!(built.bytes > 300_000_000 && built.bytes < 330_000_000, "{built:?}");
    assert_eq!(debugfs(file.path(), "cat /a/again"), "hello\n");
    let stat = debugfs(file.path(), "stat /a/b/hello");
    assert!(stat.contains("Mode:  04755") && stat.contains("Links: 2"), "{stat}");
    assert!(debugfs(file.path(), "stat /a/old").contains("1960"));
    assert!(debugfs(file.path(), "stat /sparse").contains("Size: 1073741827"));
    assert!(debugfs(file.path(), "stat /long").contains("Size: 300"));
}

#[test]
fn many_small_files_need_more_groups() {
    let mut builder = Vec::new();
    for index in 0..70_000 {
        builder.extend_from_slice(&plain(&format!("d{}/f{index}", index % 7), b'0', b""));
    }
    let (built, file) = make(vec![builder]).expect("builds");
    check(file.path());
    assert_eq!(built.counts.entries, 70_000);
}

/// One entry of an archive.
pub(crate) fn plain(path: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..108].copy_from_slice(b"0000755\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn upper_layers_hide_and_replace() {
    let lower = [
        plain("etc/", b'5', b""),
        plain("etc/a", b'0', b"lower a"),
        plain("etc/b", b'0', b"lower b"),
        plain("opt/x/y", b'0', b"y"),
        plain("var/keep", b'0', b"keep"),
    ]
    .concat();
    let upper = [
        plain("etc/a", b'0', b"upper a"),
        plain("etc/.wh.b", b'0', b""),
        plain("etc/.wh.a", b'0', b""),
        plain("opt/new", b'0', b"new"),
        plain("opt/.wh..wh..opq", b'0', b""),
    ]
    .concat();
    let (built, file) = make(vec![lower, upper]).expect("builds");
    check(file.path());
    assert_eq!(built.counts.whiteouts, 3);
    assert_eq!(debugfs(file.path(), "cat /etc/a"), "upper a");
    assert!(!debugfs(file.path(), "ls /etc").contains(" b "));
    let opt = debugfs(file.path(), "ls /opt");
    assert!(opt.contains("new") && !opt.contains(" x "), "{opt}");
    assert_eq!(debugfs(file.path(), "cat /var/keep"), "keep");
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let layer = || [plain("a/b", b'0', b"one"), plain("a/c", b'0', &[7; 9000])].concat();
    let digests: Vec<_> = (0..2)
        .map(|_| digest(&make(vec![layer()]).expect("builds").1.reopen().expect("opens")))
        .map(|digest| digest.expect("reads"))
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn an_archive_may_end_with_its_last_byte() {
    let mut bytes = plain("a", b'0', b"one");
    bytes.truncate(512 + 3);
    let (_, file) = make(vec![bytes.clone()]).expect("builds");
    check(file.path());
    assert_eq!(debugfs(file.path(), "cat /a"), "one");
    bytes.truncate(512 + 2);
    assert!(matches!(make(vec![bytes]), Err(Error::Refused { .. })));
}

#[test]
fn a_wrong_diff_id_is_found() {
    let bytes = plain("a", b'0', b"one");
    let mut out = tempfile::tempfile().expect("a file");
    let layer = Layer { read: Box::new(Cursor::new(bytes)), diff_id: Some([1; 32]) };
    let outcome = build(vec![layer], out.try_clone().expect("opens"), &Limits::default(), &|_| {});
    assert!(matches!(outcome, Err(Error::DiffId { layer: 1, .. })), "{outcome:?}");
    out.seek(SeekFrom::Start(1024)).expect("seeks");
}
