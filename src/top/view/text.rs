//! Text formatting: cuts texts and numbers to a width. Pure.

use ratatui::text::Span;

/// Cuts a text to `columns`; a cut text ends with `…`. Control characters become spaces.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if width(&clean) <= columns {
        return clean;
    }
    let mut cut = String::new();
    let limit = columns.saturating_sub(1);
    for c in clean.chars() {
        cut.push(c);
        if width(&cut) > limit {
            cut.pop();
            break;
        }
    }
    cut.truncate(cut.trim_end().len());
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// Returns the width of a text in columns.
#[must_use]
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Formats a number in at most five characters: `950`, `12k`, `1.2M`.
#[must_use]
pub fn count(number: u64) -> String {
    scaled(number, 1_000, ["", "k", "M", "G", "T"])
}

/// Formats bytes in at most five characters: `340M`, `1.2G`.
#[must_use]
pub fn bytes(number: u64) -> String {
    scaled(number, 1_024, ["B", "K", "M", "G", "T"])
}

fn scaled(number: u64, base: u64, units: [&str; 5]) -> String {
    let mut unit = 0;
    let mut scale = 1;
    // Rounded at the third digit: 999.6k becomes 1.0M.
    while unit + 1 < units.len() && number.saturating_add(scale / 2) / scale >= 1_000 {
        scale *= base;
        unit += 1;
    }
    let name = units[unit];
    let tenths = number.saturating_mul(10).saturating_add(scale / 2) / scale;
    if unit > 0 && tenths < 100 {
        return format!("{}.{}{name}", tenths / 10, tenths % 10);
    }
    format!("{}{name}", number.saturating_add(scale / 2) / scale)
}

/// Joins facts into at most `lines` lines of `columns`; the last facts are left out if they do not
/// fit.
#[must_use]
pub fn flow(facts: &[String], columns: usize, lines: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for fact in facts.iter().filter(|fact| !fact.is_empty()) {
        if let Some(line) = all.last_mut()
            && width(line) + 3 + width(fact) <= columns
        {
            line.push_str(" · ");
            line.push_str(fact);
        } else if all.len() < lines {
            all.push(fit(fact, columns));
        } else {
            // A later, shorter fact is less important, so it is left out too.
            break;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_its_width_in_columns() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("a\x1b[31mb\tc", 20), "a [31mb c");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn numbers_take_five_characters_at_most() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (9_949, "9.9k"),
            (12_345, "12k"),
            (999_600, "1.0M"),
            (1_234_567, "1.2M"),
            (34_000_000, "34M"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(bytes(340 << 20), "340M");
        assert_eq!(bytes(3 << 29), "1.5G");
        assert_eq!(bytes(1_010 << 20), "1.0G");
        for power in 0..64 {
            assert!(count(1 << power).len() <= 9, "{}", count(1 << power));
        }
    }

    #[test]
    fn facts_fill_lines_and_the_last_ones_are_left_out() {
        let facts = ["one", "", "two", "three", "four"].map(str::to_owned);
        assert_eq!(flow(&facts, 11, 2), ["one · two", "three"]);
        assert_eq!(flow(&facts, 80, 1), ["one · two · three · four"]);
    }
}
