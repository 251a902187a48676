//! Cleans text that came from a guest, an image or a file before it reaches a terminal (R-G11).

/// Replaces everything that can move a cursor, set a title, answer a query or reorder text:
/// C0 (but newline and tab), DEL, C1, and the Unicode format characters that change direction or hide.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// As [`clean`], on one line: newlines and tabs become spaces.
pub fn clean_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

fn is_harmless(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' => false,
        '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' => false,
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
}
