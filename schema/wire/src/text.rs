//! Cleans text that came from a guest, an image or a file before it reaches a terminal (R-G11).

/// Replaces everything that can move a cursor, set a title, answer a query or reorder text:
/// C0 (but newline and tab), DEL, C1, line and paragraph separators, and every format character of Unicode (`Cf`).
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// As [`clean`], on one line: newlines and tabs become spaces.
pub fn clean_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// As JSON may say it on a terminal: what [`clean`] would replace is escaped, so that the value stays what it is. Outside of
/// its texts JSON has none of these characters.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmless(c) {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

fn is_harmless(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => false,
        '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' => false,
        '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' => false,
        '\u{1d173}'..='\u{1d17a}' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_are_replaced() {
        for hostile in [
            "\u{1b}]52;c;aGk=\u{7}",
            "\u{9b}6n",
            "\u{1b}c",
            "a\rb",
            "\u{202e}txt",
            "\u{200b}",
            "\u{8}",
        ] {
            let shown = clean(hostile);
            assert!(shown.contains('\u{fffd}'), "{hostile:?}");
            assert!(!shown.chars().any(|c| c.is_control()), "{hostile:?} -> {shown:?}");
        }
        assert_eq!(clean("plain\ttext\nünïcode"), "plain\ttext\nünïcode");
        assert_eq!(clean_line("a\nb"), "a b");
    }

    #[test]
    fn json_keeps_its_value() {
        let hostile = "a\u{9b}6n\u{202e}\u{e0001}\u{7f}ü";
        let json = escape_json(&serde_json::to_string(hostile).expect("JSON"));
        assert_eq!(json, r#""a\u009b6n\u202e\udb40\udc01\u007fü""#);
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), hostile);
    }
}
