//! Text that wants more of a terminal than to be shown, and what must never reach one.

use std::collections::BTreeSet;

/// Format characters of Unicode 16 (`Cf`) and its line and paragraph separators, written down apart from the code under test.
const UNSEEN: &[(u32, u32)] = &[
    (0xad, 0xad),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x2064),
    (0x2066, 0x206f),
    (0xfeff, 0xfeff),
    (0xfff9, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0001, 0xe0001),
    (0xe0020, 0xe007f),
];

/// The ends of control sequences, after `ESC [` or its one-byte form.
const CSI: &[&str] = &[
    "6n",
    "5n",
    "?6n",
    "?996n",
    "21t",
    "20t",
    "18t",
    "14t",
    "8;1;1t",
    "22;0t",
    "c",
    "0c",
    ">c",
    "=c",
    ">q",
    "2J",
    "3J",
    "H",
    "1;1H",
    "5B",
    "3F",
    "1K",
    "@",
    "9L",
    "9M",
    "9P",
    "9X",
    "9Z",
    "d",
    "e",
    "f",
    "3g",
    "31m",
    "8m",
    "38;5;1m",
    "?1049h",
    "?25l",
    "?2004h",
    "?1000h",
    "?1006h",
    "?5h",
    "?3h",
    "4h",
    "12l",
    "!p",
    "1;5r",
    "s",
    "u",
    ">4;2m",
    "5i",
    "4i",
    "0q",
    "2q",
    "1 q",
    "99999999999b",
    "?1;2;3S",
    "x",
    "1$r",
];

/// Numbers of operating system commands: titles, colours, folders, links, the clipboard, files.
const OSC: &[&str] = &[
    "0;owned",
    "1;owned",
    "2;owned",
    "4;1;?",
    "7;file:///etc/passwd",
    "8;;http://evil.example/",
    "9;hello",
    "10;?",
    "11;?",
    "12;?",
    "50;#1",
    "52;c;cm0gLXJm",
    "52;c;?",
    "104",
    "133;A",
    "777;notify;a;b",
    "1337;File=name=YQ==:AA==",
];

/// Sequences of two letters.
const SHORT: &[&str] = &[
    "c", "7", "8", "D", "E", "H", "M", "N", "O", "Z", "=", ">", "#8", "%G", "%@", "(0", ")B", "*0",
    "n", "o", "|", "}", "~", "l", "m", " F", "6", "9",
];

/// Texts in a group.
const GROUP: usize = 30;

/// At least 200 texts, no two alike.
pub(super) fn texts() -> Vec<String> {
    let mut all = Vec::new();
    let c0 = (0..0x20u32).filter(|c| ![9, 10].contains(c));
    let ends = UNSEEN.iter().flat_map(|(from, to)| BTreeSet::from([*from, *to]));
    for c in c0.chain([0x7f]).chain(0x80..0xa0).chain(ends) {
        let c = char::from_u32(c).expect("a character");
        all.push(format!("a{c}b"));
    }
    for start in ["\u{1b}[", "\u{9b}"] {
        all.extend(CSI.iter().map(|end| format!("{start}{end}")));
    }
    for (number, command) in OSC.iter().enumerate() {
        for end in ["\u{7}", "\u{1b}\\", "\u{9c}", ""] {
            let start = if number % 2 == 0 { "\u{1b}]" } else { "\u{9d}" };
            all.push(format!("{start}{command}{end}"));
        }
    }
    for start in
        ["\u{1b}P", "\u{1b}_", "\u{1b}^", "\u{1b}X", "\u{90}", "\u{9f}", "\u{9e}", "\u{98}"]
    {
        all.extend(["\u{1b}\\", "\u{9c}", ""].map(|end| format!("{start}1$qm{end}")));
    }
    all.extend(SHORT.iter().map(|end| format!("\u{1b}{end}")));
    all.extend(
        [
            "harmless\rFORGED",
            "good\u{8}\u{8}\u{8}\u{8}evil",
            "a\nerror: FORGED",
            "a\n+ sandbox web  destroy disk",
            "tab\tand\ttab",
            "a\r\nb",
            "\u{b}\u{c}down",
            "if (admin\u{202e} \u{2066}// check\u{2069} \u{2066}) {",
            "\u{2067}\u{202b}txt.exe\u{202c}\u{2069}",
            "pass\u{200b}word\u{200c}\u{200d}\u{2060}",
            "\u{e0041}\u{e0042}\u{e007f}tags",
            "\u{1b}\u{1b}\u{1b}[[[6n",
            "\u{1b}]0;\u{1b}]52;c;YQ==\u{7}\u{7}",
            "\u{1b}[\u{0}6\u{0}n",
            "\u{9b}\u{9b}6n",
            "\u{1b}]8;;x\u{1b}\\link\u{1b}]8;;\u{1b}\\",
            "\u{fffd}\u{feff}\u{fffe}",
            "\u{1b}",
            "\u{7}\u{7}\u{7}",
            "$(reboot) `reboot` %s %n {} {0}",
        ]
        .map(String::from),
    );
    all.push(format!("e{}", "\u{301}".repeat(400)));
    all.push(format!("{}\u{1b}[6n", "x".repeat(5000)));
    all.push("\u{1b}[6n".repeat(200));
    all.extend(raw().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    let mut seen = BTreeSet::new();
    all.retain(|text| seen.insert(text.clone()));
    all
}

/// All of them in a few: what stands in a table is as wide as its longest.
pub(super) fn groups() -> Vec<String> {
    texts().chunks(GROUP).map(|group| group.join("|")).collect()
}

/// Bytes that are no text: half a surrogate pair, overlong forms, one-byte controls, characters that are cut.
fn raw() -> Vec<Vec<u8>> {
    let all: [&[u8]; 12] = [
        b"a\xed\xa0\x80b",
        b"\xed\xb0\x80\x1b[6n",
        b"\x9b6n",
        b"\x9d0;owned\x9c",
        b"\x90q\x9c",
        b"\xc0\x9b6n",
        b"\xe0\x80\x9b6n",
        b"\xf5\x80\x80\x80",
        b"\xff\xfe\x1b]0;x\x07",
        b"\xc2",
        b"\xe2\x80",
        b"\xf0\x9f\x98",
    ];
    all.iter().map(|bytes| bytes.to_vec()).collect()
}

/// All of it as a guest would write it to its console.
pub(super) fn stream() -> Vec<u8> {
    let mut all: Vec<u8> = texts().join("|").into_bytes();
    for bytes in raw() {
        all.extend(bytes);
        all.push(b'|');
    }
    all
}

/// Everything in what reached a terminal that must not. `bars` are drawn with a few sequences of our own.
pub(super) fn forbidden(bytes: &[u8], bars: bool) -> Vec<String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(error) => return vec![format!("no text at {}: {error}", error.valid_up_to())],
    };
    // A terminal's own line ends.
    let mut text = text.replace("\r\n", "\n");
    if bars {
        if text.contains("\rFORGED") {
            return vec!["a line that overwrites another".into()];
        }
        for own in ["\u{1b}[2K", "\r"] {
            text = text.replace(own, "");
        }
        // Up or down by some lines, as bars are cleared when there are several: no text above has this.
        let moved = |part: &str| {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            rest.strip_prefix(['A', 'B']).filter(|_| rest != part).map(String::from)
        };
        let mut parts = text.split("\u{1b}[");
        let first = parts.next().unwrap_or_default().to_string();
        text = first
            + &parts
                .map(|part| moved(part).unwrap_or(format!("\u{1b}[{part}")))
                .collect::<String>();
    }
    let bad = |c: char| {
        let unseen = UNSEEN.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(c)));
        (c.is_control() && c != '\n' && c != '\t') || unseen
    };
    let found: BTreeSet<char> = text.chars().filter(|c| bad(*c)).collect();
    let around = |c: char| {
        let at = text.find(c).expect("just found");
        let before: String =
            text[..at].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
        format!("{c:?} after {before:?}")
    };
    found.into_iter().take(3).map(around).collect()
}
