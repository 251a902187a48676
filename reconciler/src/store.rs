//! Keeps intent, and nothing else, in SQLite. "Is it running?" is never answered here.
//!
//! One row per thing, its value as JSON. A change is one transaction that is on disk when [`Store::save`] returns
//! (WAL with `synchronous=FULL`): an intent that could vanish would be a leaked process.

use crate::fault::Fault;
use banger_plan::desired::Desired;
use banger_wire::id::InstallId;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The schema that this program writes. Raised with every migration.
const SCHEMA: i64 = 4;

/// From each version to the next. Only ever added to.
const MIGRATIONS: [&str; 4] = [
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE thing (
        kind TEXT NOT NULL CHECK (kind IN ('project', 'kernel', 'image', 'volume', 'sandbox')),
        id TEXT NOT NULL,
        value TEXT NOT NULL CHECK (json_valid(value)),
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;
",
    "
    UPDATE thing SET value = json_set(value, '$.host', 2 + (
        SELECT count(*) FROM thing AS before WHERE before.kind = 'sandbox' AND before.id < thing.id
    )) WHERE kind = 'sandbox';
    INSERT INTO meta (key, value) VALUES ('subnet', 'null'), ('cooling', '{}');
",
    // Images were built in a guest, and named its kernel.
    "
    UPDATE thing SET value = json_remove(value, '$.builder') WHERE kind = 'image';
",
    "
    ALTER TABLE thing RENAME TO before;
    CREATE TABLE thing (
        kind TEXT NOT NULL CHECK (kind IN ('project', 'kernel', 'image', 'volume', 'sandbox', 'snapshot')),
        id TEXT NOT NULL,
        value TEXT NOT NULL CHECK (json_valid(value)),
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO thing SELECT kind, id, value FROM before;
    DROP TABLE before;
",
];

/// The database.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
    path: PathBuf,
}

impl Store {
    /// Opens the database, makes it if it is not there, and brings an older one up to date after a backup.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or was written by a newer banger.
    pub fn open(path: &Path, fresh_install: impl FnOnce() -> InstallId) -> Result<Self, Fault> {
        let fail = |error| fault(path, error);
        let mut connection = Connection::open(path).map_err(fail)?;
        // On every connection that is ever opened: SQLite keeps most of these per connection.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF;",
            )
            .map_err(fail)?;
        let sound: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fail)?;
        if sound != "ok" {
            return Err(Fault::host(format!(
                "the database {} is damaged: {sound}",
                path.display()
            ))
            .hint("running sandboxes are not touched; restore a backup beside it"));
        }
        migrate(&mut connection, path)?;
        let id: Option<String> = connection
            .query_row("SELECT value FROM meta WHERE key = 'install'", [], |row| row.get(0))
            .optional()
            .map_err(fail)?;
        if id.is_none() {
            let fresh = fresh_install();
            let insert = "INSERT INTO meta (key, value) VALUES ('install', ?1), ('serial', '0')";
            connection.execute(insert, [fresh.as_str()]).map_err(fail)?;
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: path.to_path_buf() })
    }

    /// Everything that is desired.
    ///
    /// # Errors
    /// When a row cannot be read. Nothing is thrown away.
    pub fn load(&self) -> Result<Desired, Fault> {
        let connection = self.connection.lock().expect("no holder panics");
        let fail = |error| fault(&self.path, error);
        let meta = |key: &str| {
            let select = "SELECT value FROM meta WHERE key = ?1";
            connection.query_row(select, [key], |row| row.get::<_, String>(0)).map_err(fail)
        };
        let unreadable =
            |what: &str| Fault::host(format!("{} has an unreadable {what}", self.path.display()));
        let install = InstallId::new(meta("install")?).map_err(|_| unreadable("install id"))?;
        let mut desired = Desired::empty(install);
        desired.serial = meta("serial")?.parse().map_err(|_| unreadable("serial"))?;
        desired.subnet =
            serde_json::from_str(&meta("subnet")?).map_err(|_| unreadable("subnet"))?;
        desired.cooling =
            serde_json::from_str(&meta("cooling")?).map_err(|_| unreadable("list of addresses"))?;
        desired.projects = self.rows(&connection, "project")?;
        desired.kernels = self.rows(&connection, "kernel")?;
        desired.images = self.rows(&connection, "image")?;
        desired.volumes = self.rows(&connection, "volume")?;
        desired.sandboxes = self.rows(&connection, "sandbox")?;
        desired.snapshots = self.rows(&connection, "snapshot")?;
        Ok(desired)
    }

    fn rows<K, V>(&self, connection: &Connection, kind: &str) -> Result<BTreeMap<K, V>, Fault>
    where
        K: TryFrom<String> + Ord,
        V: DeserializeOwned,
    {
        let fail = |error| fault(&self.path, error);
        let mut select =
            connection.prepare("SELECT id, value FROM thing WHERE kind = ?1").map_err(fail)?;
        let rows = select.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?))).map_err(fail)?;
        let mut out = BTreeMap::new();
        for row in rows {
            let (id, value): (String, String) = row.map_err(fail)?;
            let broken =
                || Fault::host(format!("{} has an unreadable {kind} {id}", self.path.display()));
            let value = serde_json::from_str(&value).map_err(|_| broken())?;
            out.insert(K::try_from(id.clone()).map_err(|_| broken())?, value);
        }
        Ok(out)
    }

    /// Makes `next` what is desired, in one transaction. `previous` is what is there.
    ///
    /// # Errors
    /// When it cannot be written; then everything is as it was.
    pub fn save(&self, previous: &Desired, next: &Desired) -> Result<(), Fault> {
        let mut connection = self.connection.lock().expect("no holder panics");
        let fail = |error| fault(&self.path, error);
        let change = connection.transaction().map_err(fail)?;
        let write = || -> rusqlite::Result<()> {
            let json = |text: serde_json::Result<String>| text.expect("plain values encode");
            for (key, value) in [
                ("serial", next.serial.to_string()),
                ("subnet", json(serde_json::to_string(&next.subnet))),
                ("cooling", json(serde_json::to_string(&next.cooling))),
            ] {
                change.execute("UPDATE meta SET value = ?1 WHERE key = ?2", [&value, key])?;
            }
            differ(&change, "project", &previous.projects, &next.projects)?;
            differ(&change, "kernel", &previous.kernels, &next.kernels)?;
            differ(&change, "image", &previous.images, &next.images)?;
            differ(&change, "volume", &previous.volumes, &next.volumes)?;
            differ(&change, "sandbox", &previous.sandboxes, &next.sandboxes)?;
            differ(&change, "snapshot", &previous.snapshots, &next.snapshots)
        };
        write().map_err(fail)?;
        change.commit().map_err(fail)
    }
}

/// Writes the rows that differ.
fn differ<K, V>(
    change: &Transaction<'_>,
    kind: &str,
    previous: &BTreeMap<K, V>,
    next: &BTreeMap<K, V>,
) -> rusqlite::Result<()>
where
    K: Ord + ToString,
    V: PartialEq + Serialize,
{
    for id in previous.keys().filter(|id| !next.contains_key(id)) {
        change.execute(
            "DELETE FROM thing WHERE kind = ?1 AND id = ?2",
            params![kind, id.to_string()],
        )?;
    }
    for (id, value) in next.iter().filter(|(id, value)| previous.get(id) != Some(value)) {
        let json = serde_json::to_string(value).expect("plain values encode");
        let upsert = "INSERT INTO thing (kind, id, value) VALUES (?1, ?2, ?3)
                      ON CONFLICT (kind, id) DO UPDATE SET value = excluded.value";
        change.execute(upsert, params![kind, id.to_string(), json])?;
    }
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Fault> {
    let fail = |error| fault(path, error);
    let version: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    if version > SCHEMA {
        return Err(Fault::host(format!(
            "the database {} has schema {version}, and this banger knows {SCHEMA}",
            path.display()
        ))
        .hint("a newer banger wrote it; use that one"));
    }
    if version == SCHEMA {
        return Ok(());
    }
    if version > 0 {
        let backup = path.with_extension(format!("schema-{version}.backup"));
        let _ = std::fs::remove_file(&backup);
        connection.execute("VACUUM INTO ?1", [backup.display().to_string()]).map_err(fail)?;
    }
    let change = connection.transaction().map_err(fail)?;
    for script in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        change.execute_batch(script).map_err(fail)?;
    }
    change.pragma_update(None, "user_version", SCHEMA).map_err(fail)?;
    change.commit().map_err(fail)
}

fn fault(path: &Path, error: rusqlite::Error) -> Fault {
    let full = matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
    let mut fault = Fault::host(format!("the database {}", path.display()));
    if full {
        fault = fault.hint("the disk is full: free some space; nothing was changed");
    }
    fault.source = Some(Box::new(error));
    fault
}

#[cfg(test)]
mod tests;
