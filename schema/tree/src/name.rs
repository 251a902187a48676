//! Which names may cross, and which of them a host runs by habit.
//!
//! A name is a path of bytes with slashes, relative to a tree's root. Everything here is by name alone.

/// The longest name in bytes.
pub const MAX_NAME: usize = 4096;
/// The longest part of a name in bytes.
pub const MAX_PART: usize = 255;

/// What the name of a folder begins with in which changes are prepared.
pub const STAGE: &str = ".banger-stage-";

/// Why a name may not cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is empty.
    #[error("an empty name")]
    Empty,
    /// It is too long, or a part of it is.
    #[error("a name that is too long")]
    TooLong,
    /// It begins with a slash.
    #[error("an absolute name")]
    Absolute,
    /// It has an empty part, `.` or `..`.
    #[error("a name with \"..\", \".\" or an empty part")]
    Dots,
    /// It has a NUL byte.
    #[error("a name with a NUL byte")]
    Nul,
    /// A part of it is one that banger itself uses while it writes.
    #[error("a name that banger uses itself")]
    Ours,
    /// A part of it is, on some filesystem, `.git`.
    #[error("a name that leads into a repository's own folder")]
    Git,
}

/// The parts of a name, once it is known to be one: relative, without dots, NUL and empty parts, and bounded.
///
/// # Errors
/// When it is not.
pub fn parts(name: &[u8]) -> Result<impl Iterator<Item = &[u8]>, Refused> {
    if name.is_empty() {
        return Err(Refused::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(Refused::TooLong);
    }
    if name[0] == b'/' {
        return Err(Refused::Absolute);
    }
    if name.contains(&0) {
        return Err(Refused::Nul);
    }
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." | b".." => return Err(Refused::Dots),
            long if long.len() > MAX_PART => return Err(Refused::TooLong),
            _ => {}
        }
    }
    Ok(name.split(|byte| *byte == b'/'))
}

/// Whether a name may come back from a guest (R-P4): as [`parts`], and no part of it is `.git` on any filesystem.
///
/// # Errors
/// Why not.
pub fn check(name: &[u8]) -> Result<(), Refused> {
    for part in parts(name)? {
        if is_git(part) {
            return Err(Refused::Git);
        }
        if part.to_ascii_lowercase().starts_with(STAGE.as_bytes()) {
            return Err(Refused::Ours);
        }
    }
    Ok(())
}

/// Whether a part of a name is `.git` to a filesystem that folds case, ignores some characters, or has short names.
fn is_git(part: &[u8]) -> bool {
    // NTFS takes a backslash for a slash, and a colon for the start of a stream's name.
    part.split(|byte| matches!(byte, b'\\' | b':')).any(|piece| {
        let plain = without_ignorable(piece);
        let end =
            plain.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |at| at + 1);
        let plain = &plain[..end];
        plain.eq_ignore_ascii_case(b".git") || is_short_name(plain)
    })
}

/// `GIT~1` and its like: what NTFS may call `.git`.
fn is_short_name(name: &[u8]) -> bool {
    let Some((head, number)) = name.split_at_checked(4) else { return false };
    head.eq_ignore_ascii_case(b"git~")
        && !number.is_empty()
        && number.iter().all(u8::is_ascii_digit)
}

/// Without the characters that HFS+ does not look at.
fn without_ignorable(name: &[u8]) -> Vec<u8> {
    let ignorable = |text: &char| matches!(*text, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    match std::str::from_utf8(name) {
        Ok(text) => text.chars().filter(|c| !ignorable(c)).collect::<String>().into_bytes(),
        Err(_) => name.to_vec(),
    }
}

/// Whether people or their tools run a file of this name on the host by habit (R-P5).
pub fn runs_by_habit(name: &[u8], executable: bool) -> bool {
    let lower: Vec<u8> = name.to_ascii_lowercase();
    let parts: Vec<&[u8]> = lower.split(|byte| *byte == b'/').collect();
    let Some((last, folders)) = parts.split_last() else { return false };
    folders.iter().any(|folder| HABIT_FOLDERS.contains(folder))
        || HABIT_FOLDERS.contains(last)
        || HABIT_NAMES.contains(last)
        || HABIT_ENDINGS.iter().any(|ending| last.ends_with(ending))
        || executable
}

/// Folders whose content editors, hosts of code and hooks run.
const HABIT_FOLDERS: &[&[u8]] = &[
    b".vscode",
    b".idea",
    b".devcontainer",
    b".github",
    b".gitlab",
    b".circleci",
    b".husky",
    b".cargo",
    b".githooks",
    b".claude",
    b".cursor",
    b".zed",
    b".fleet",
    b".run",
    b".mvn",
    b".bundle",
    b".yarn",
    b".mise",
    b"mise",
];

/// Files that run, or say what runs, when somebody enters, builds, tests or opens the folder. Sources and lists of what a
/// project needs are not among them: everything would be.
const HABIT_NAMES: &[&[u8]] = &[
    b".gitattributes",
    b".gitmodules",
    b".gitconfig",
    b".envrc",
    b".env",
    b"mise.toml",
    b"mise.local.toml",
    b".devcontainer.json",
    b".mise.toml",
    b".tool-versions",
    b"makefile",
    b"gnumakefile",
    b"bsdmakefile",
    b"justfile",
    b".justfile",
    b"taskfile.yml",
    b"taskfile.yaml",
    b"rakefile",
    b"build.rs",
    b"rust-toolchain.toml",
    b"rust-toolchain",
    b"package.json",
    b".npmrc",
    b".yarnrc",
    b".yarnrc.yml",
    b".pnpmfile.cjs",
    b"setup.py",
    b"conftest.py",
    b"noxfile.py",
    b"sitecustomize.py",
    b".pre-commit-config.yaml",
    b"lefthook.yml",
    b".lefthook.yml",
    b"docker-compose.yml",
    b"docker-compose.yaml",
    b"compose.yml",
    b"compose.yaml",
    b"vagrantfile",
    b"jenkinsfile",
    b"tiltfile",
    b"procfile",
    b"cmakelists.txt",
    b"configure",
    b"meson.build",
    b"build.gradle",
    b"build.gradle.kts",
    b"settings.gradle",
    b"settings.gradle.kts",
    b"gradlew",
    b"mvnw",
    b"flake.nix",
    b"shell.nix",
    b"default.nix",
    b".exrc",
    b".vimrc",
    b".nvimrc",
    b".nvim.lua",
    b".dir-locals.el",
    b".gdbinit",
    b".lldbinit",
    b".gitlab-ci.yml",
    b".mcp.json",
    b"bangerfile",
    b"bangerfile.toml",
    b"bangerfile.lock",
];

/// Ends of names that say as much.
const HABIT_ENDINGS: &[&[u8]] = &[b".code-workspace", b".mk", b".pth"];

/// A name for people: what is not text is replaced.
pub fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, why) in [
            (&b""[..], Refused::Empty),
            (b"/etc/passwd", Refused::Absolute),
            (b"a//b", Refused::Dots),
            (b"a/", Refused::Dots),
            (b"./a", Refused::Dots),
            (b"a/../../b", Refused::Dots),
            (b"..", Refused::Dots),
            (b"a\0b", Refused::Nul),
            (b".git/config", Refused::Git),
            (b"sub/.GIT/hooks/post-checkout", Refused::Git),
            (b".git ", Refused::Git),
            (b".git./x", Refused::Git),
            (b".git . ./x", Refused::Git),
            (b"git~1/config", Refused::Git),
            (b"GIT~12/config", Refused::Git),
            (b".git::$INDEX_ALLOCATION/config", Refused::Git),
            (b"a\\.git\\config", Refused::Git),
            ("\u{200c}.g\u{200d}it/config".as_bytes(), Refused::Git),
            (".git\u{feff}".as_bytes(), Refused::Git),
            (b".Banger-stage-1/journal", Refused::Ours),
        ] {
            assert_eq!(check(name), Err(why), "{}", shown(name));
        }
        let long = vec![b'a'; MAX_PART + 1];
        assert_eq!(check(&long), Err(Refused::TooLong));
        let deep = b"a/".repeat(MAX_NAME / 2).iter().copied().chain(*b"b").collect::<Vec<u8>>();
        assert_eq!(check(&deep), Err(Refused::TooLong));
        for name in [
            &b".gitignore"[..],
            b"a/.github/x",
            b"git",
            b".gitx/y",
            b"git~x",
            b"a.git/b",
            b"\xff\xfe",
            b"...",
        ] {
            assert_eq!(check(name), Ok(()), "{}", shown(name));
        }
    }

    #[test]
    fn what_runs_by_habit_is_known() {
        for name in [
            ".envrc",
            "sub/Makefile",
            ".vscode/tasks.json",
            "build.rs",
            "package.json",
            "Bangerfile",
            "x.mk",
        ] {
            assert!(runs_by_habit(name.as_bytes(), false), "{name}");
        }
        assert!(runs_by_habit(b"tool.sh", true));
        for name in ["src/main.rs", "README.md", "tool.sh", "docs/makefile.md"] {
            assert!(!runs_by_habit(name.as_bytes(), false), "{name}");
        }
    }
}
