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
    assert!(fault.problem().message.contains("schema 2"), "{}", fault.problem().message);
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
