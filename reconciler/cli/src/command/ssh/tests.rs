use super::*;
use std::os::unix::fs::PermissionsExt;

const LINE: &str = "Include \"/somewhere/config\"\n";

fn home() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join(".ssh");
    let path = folder.join("config");
    (home, folder, path)
}

fn make(folder: &Path, path: &Path, text: &str, mode: u32) {
    fs::DirBuilder::new().mode(0o700).create(folder).expect("a folder");
    fs::write(path, text).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn the_line_comes_first_once_and_goes_without_a_trace() {
    for text in ["", "Host *\n  ForwardAgent yes\n", "no newline at its end", "\n\n# a\n"] {
        let (_home, folder, path) = home();
        make(&folder, &path, text, 0o640);
        fs::write(folder.join("id_ed25519"), "the user's own key").expect("writes");
        for _ in 0..3 {
            put_in(&folder, &path, LINE).expect("puts");
        }
        assert_eq!(fs::read_to_string(&path).expect("reads"), format!("{LINE}{text}"));
        assert!(take_out(&path, LINE).expect("takes"));
        assert!(!take_out(&path, LINE).expect("takes nothing"));
        assert_eq!(fs::read_to_string(&path).expect("reads"), text);
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
        let left: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(left.len(), 2, "the file and the key: {left:?}");
    }
    let (_home, folder, path) = home();
    put_in(&folder, &path, LINE).expect("puts");
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
    take_out(&path, LINE).expect("takes");
    assert!(!path.exists(), "it was not there before");
}

/// What the user changed meanwhile stays, and a backup of what was before with it.
#[test]
fn later_changes_are_kept() {
    let (_home, folder, path) = home();
    make(&folder, &path, "Host a\n", 0o600);
    put_in(&folder, &path, LINE).expect("puts");
    fs::write(&path, format!("{LINE}Host b\n")).expect("writes");
    take_out(&path, LINE).expect("takes");
    assert_eq!(fs::read_to_string(&path).expect("reads"), "Host b\n");
    assert_eq!(fs::read_to_string(backup(&path)).expect("reads"), "Host a\n");
}

#[test]
fn what_others_can_change_is_left_alone() {
    let (_home, folder, path) = home();
    make(&folder, &path, "x\n", 0o664);
    assert!(put_in(&folder, &path, LINE).is_err(), "others may write");
    assert_eq!(fs::read_to_string(&path).expect("reads"), "x\n");
    let elsewhere = folder.join("elsewhere");
    fs::rename(&path, &elsewhere).expect("renames");
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).expect("a mode");
    std::os::unix::fs::symlink(&elsewhere, &path).expect("links");
    assert!(put_in(&folder, &path, LINE).is_err(), "a link");
    assert!(take_out(&path, LINE).is_err());
    assert_eq!(fs::read_to_string(&elsewhere).expect("reads"), "x\n");
}

#[test]
fn names_are_names() {
    for bad in ["", "a/b", "../x", "a b", "a%20", "ü"] {
        assert!(path_of(bad).is_err(), "{bad}");
    }
    assert!(path_of("web.shop.vm").is_ok());
}

#[test]
fn odd_paths_are_quoted_or_refused() {
    let way = |value: &str| vec![("BANGER_HOME".to_string(), value.to_string())];
    let text =
        configuration(Path::new("/s/50% off"), Path::new("/p/a b"), &way("/h")).expect("plain");
    assert!(
        text.contains("ProxyCommand /usr/bin/env BANGER_HOME='/h' '/p/a b' ssh-proxy %n\n"),
        "{text}"
    );
    assert!(text.contains("IdentityFile \"/s/50%% off/ssh/id_ed25519\"\n"), "{text}");
    for odd in ["/a\nProxyCommand x", "/a\"b", "/a'b", "/a*b", "/a${HOME}", "/a\\b"] {
        assert!(configuration(Path::new(odd), Path::new("/p"), &[]).is_err(), "{odd:?}");
        assert!(configuration(Path::new("/s"), Path::new("/p"), &way(odd)).is_err(), "{odd:?}");
    }
}

/// An editor of another system, or one that leaves out the last newline: the line is ours all the same.
#[test]
fn the_line_is_found_in_any_form() {
    for text in ["Host a\n{}\r\nHost b\n", "Host a\nHost b\n{}"] {
        let (_home, folder, path) = home();
        make(&folder, &path, &text.replace("{}", LINE.trim_end()), 0o600);
        put_in(&folder, &path, LINE).expect("puts");
        assert_eq!(fs::read_to_string(&path).expect("reads"), format!("{LINE}Host a\nHost b\n"));
        take_out(&path, LINE).expect("takes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "Host a\nHost b\n");
    }
}
