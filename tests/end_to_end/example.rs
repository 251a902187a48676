//! `Bangerfile.example`, from a file to machines that answer and back.

use super::home::{Home, can_run, each};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

fn get(home: &Home, port: u16) -> String {
    let connect = || TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    let mut stream = home.namespace().inside(connect);
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

#[test]
fn the_example_boots_answers_changes_and_goes() {
    if !can_run() {
        return;
    }
    let home = Home::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Bangerfile.example");
    // A port of the test's own: another may use the example's.
    let text = fs::read_to_string(example).expect("reads").replace("8080", "18080");
    let file = home.path().join("Bangerfile");
    fs::write(&file, &text).expect("writes");

    // Somebody else's sandbox, which nothing below may touch.
    home.ok(&["vm", "create", "bystander", "--memory", "256MiB"]);
    let bystander = home.boot_id("bystander");

    assert_eq!(home.banger(&["plan"]).code, 2, "there are changes");
    home.ok(&["apply"]);
    let status = home.json(&["status"]);
    let phases: Vec<_> = status["sandboxes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| (s["name"].clone(), s["phase"].clone()))
        .collect();
    assert_eq!(phases, [("db".into(), "ready".into()), ("web".into(), "ready".into())]);
    assert!(
        home.ok(&["vm", "exec", "web", "--", "cat", "/etc/os-release"])
            .contains("Debian GNU/Linux 12")
    );
    assert!(get(&home, 18080).contains("hello from a microVM"));

    // A second time there is nothing to do, and nothing is done.
    let boots = [home.boot_id("db"), home.boot_id("web")];
    let log = home.log().len();
    assert_eq!(home.ok(&["apply"]), "no changes\n");
    assert_eq!(home.banger(&["plan"]).code, 0);
    assert_eq!([home.boot_id("db"), home.boot_id("web")], boots);
    assert!(!home.log()[log..].contains("sandbox"), "{}", &home.log()[log..]);

    // More memory needs a restart, and the plan says so.
    fs::write(&file, text.replacen("memory \"256MiB\"", "memory \"320MiB\"", 1)).expect("writes");
    let plan = home.banger(&["plan"]);
    assert_eq!(plan.code, 2);
    assert!(plan.out.contains("memory 256MiB → 320MiB (restart)"), "{}", plan.out);
    assert!(!plan.out.contains("sandbox web"), "only db is concerned: {}", plan.out);
    home.ok(&["apply"]);
    assert_ne!(home.boot_id("db"), boots[0]);
    assert_eq!(home.boot_id("web"), boots[1], "web was not restarted");
    assert!(get(&home, 18080).contains("hello from a microVM"));

    // A change of the environment is live.
    fs::write(
        &file,
        text.replacen("memory \"256MiB\"", "memory \"320MiB\"", 1)
            .replace("hello from", "greetings from"),
    )
    .expect("writes");
    home.ok(&["apply"]);
    assert_eq!(home.boot_id("web"), boots[1], "web was not restarted");
    assert_eq!(
        home.ok(&["vm", "exec", "web", "--", "sh", "-c", "echo $GREETING"]),
        "greetings from a microVM\n"
    );

    // Without a yes nothing is destroyed; with it everything of this file goes, and nothing else.
    let said = home.banger(&["destroy"]);
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    assert_eq!(home.boot_id("web"), boots[1]);
    home.ok(&["destroy", "--yes"]);
    assert!(
        home.json(&["status", "-p", "example"])["sandboxes"].as_array().expect("a list").is_empty()
    );
    let connect = || TcpStream::connect(("127.0.0.1", 18080));
    assert!(home.namespace().inside(connect).is_err(), "the port is closed");
    assert_eq!(home.boot_id("bystander"), bystander);
    assert_eq!(home.guests().len(), each(), "only the bystander's processes: {:?}", home.guests());
    assert_eq!(home.leftovers().len(), 3, "only the bystander's folders: {:?}", home.leftovers());
    // Named with its project: a name alone never reaches beyond the Bangerfile of the folder.
    assert_eq!(home.banger(&["vm", "delete", "bystander", "--yes"]).code, 1);
    home.ok(&["-p", "default", "vm", "delete", "bystander", "--yes"]);
    home.assert_nothing_left();
}
