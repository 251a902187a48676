use super::*;
use banger_plan::assign::assign;
use banger_schema::{Language, parse};
use banger_wire::id::Name;

fn install() -> InstallId {
    InstallId::from_bits(1)
}

fn some(desired: &Desired) -> Desired {
    let text = "volume \"v\" size=\"1GiB\"\nsandbox \"a\" { image \"debian-bookworm\"; volume \"v\" at=\"/v\"; }";
    let spec = parse("x", text, Language::Kdl).expect("parses");
    assign(desired, &Name::new("p").expect("a name"), &spec, false)
}

#[test]
fn what_is_saved_is_loaded_and_pragmas_hold_on_every_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("banger.db");
    let next = {
        let store = Store::open(&path, install).expect("opens");
        let empty = store.load().expect("loads");
        let next = some(&empty);
        store.save(&empty, &next).expect("saves");
        next
    };
    let store = Store::open(&path, || panic!("it has an install id already")).expect("opens again");
    assert_eq!(store.load().expect("loads"), next);
    let connection = store.connection.lock().expect("free");
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).expect(name)
    };
    assert_eq!(
        (pragma("synchronous"), pragma("foreign_keys"), pragma("busy_timeout")),
        (2, 1, 5000)
    );
    let mode: String =
        connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("mode");
    assert_eq!(mode, "wal");
}

/// A database of the first schema: nothing of it is lost, and every sandbox has a number of its own.
#[test]
fn an_older_schema_is_brought_up_to_date_after_a_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("banger.db");
    let desired = {
        let store = Store::open(&path, install).expect("opens");
        let empty = store.load().expect("loads");
        let text = "sandbox \"a\" { image \"debian-bookworm\"; }\nsandbox \"b\" { image \"debian-bookworm\"; }";
        let spec = parse("x", text, Language::Kdl).expect("parses");
        let next = assign(&empty, &Name::new("p").expect("a name"), &spec, false);
        store.save(&empty, &next).expect("saves");
        next
    };
    let old = Connection::open(&path).expect("opens");
    old.execute_batch(
        "UPDATE thing SET value = json_remove(value, '$.host', '$.spec.networks', '$.spec.egress')
         WHERE kind = 'sandbox';
         UPDATE thing SET value = json_set(value, '$.builder', 'a kernel') WHERE kind = 'image';
         UPDATE thing SET value = json_remove(value, '$.networks') WHERE kind = 'project';
         DELETE FROM meta WHERE key IN ('subnet', 'cooling'); PRAGMA user_version = 1;",
    )
    .expect("makes it old");
    drop(old);
    let store = Store::open(&path, install).expect("opens");
    let loaded = store.load().expect("loads");
    let hosts: Vec<u16> = loaded.sandboxes.values().map(|s| s.host.get()).collect();
    assert_eq!(hosts, [2, 3]);
    assert_eq!(
        loaded.sandboxes.keys().collect::<Vec<_>>(),
        desired.sandboxes.keys().collect::<Vec<_>>()
    );
    assert!(folder.path().join("banger.schema-1.backup").exists());
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("banger.db");
    drop(Store::open(&path, install).expect("opens"));
    let newer = Connection::open(&path).expect("opens");
    newer.pragma_update(None, "user_version", SCHEMA + 1).expect("writes");
    drop(newer);
    let before = std::fs::read(&path).expect("reads");
    let fault = Store::open(&path, install).err().expect("refused");
    assert!(fault.problem().message.contains("schema 5"), "{}", fault.problem().message);
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}

#[test]
fn a_damaged_database_is_refused_and_never_wiped() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("banger.db");
    std::fs::write(
        &path,
        b"this is somebody else's file, longer than a header of SQLite would be, and not one",
    )
    .expect("writes");
    assert!(Store::open(&path, install).is_err());
    assert!(std::fs::read(&path).expect("reads").starts_with(b"this is somebody"));
}
