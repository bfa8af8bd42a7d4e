//! Recovery of whole JSON objects from a damaged line of a transcript.
//!
//! Claude Code never repairs a line that was cut off: it appends its next record to it. A power cut
//! leaves NULs. A text that was cut between the two halves of an emoji leaves half a surrogate
//! pair, which JavaScript writes and reads back, and which strict parsers refuse together with the
//! whole record.

use std::borrow::Cow;

use serde_json::{Deserializer, Map, Value};

/// How many positions of one line are tried as the beginning of a record.
const ATTEMPTS: usize = 10_000;

/// Content of a line.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// The whole objects in it.
    pub(crate) objects: Vec<Map<String, Value>>,
    /// Bytes that belong to none of them; NULs and white space are not counted.
    pub(crate) skipped: u64,
}

/// Parses a line without its newline.
pub(crate) fn parse(line: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let line = trim(line);
    if line.is_empty() {
        return parsed;
    }
    let text = String::from_utf8_lossy(line);
    let text = whole_surrogates(&text);
    let mut rest: &str = &text;
    let mut attempts = 0;
    while !rest.is_empty() {
        let (object, used) = first_object(rest);
        rest = &rest[used..];
        if let Some(object) = object {
            parsed.objects.push(object);
            rest = rest.trim_start_matches(is_blank);
            continue;
        }
        let next = next_record(rest, &mut attempts);
        parsed.skipped += next as u64;
        rest = &rest[next..];
    }
    parsed
}

/// Parses a single whole object with nothing else; a last line without its newline may be one.
pub(crate) fn parse_exactly(line: &[u8]) -> Option<Map<String, Value>> {
    let line = trim(line);
    if line.last() != Some(&b'}') {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    serde_json::from_str(&whole_surrogates(&text)).ok()
}

fn is_blank(char: char) -> bool {
    char == '\0' || char.is_ascii_whitespace()
}

fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let start = bytes.iter().position(|byte| !blank(byte));
    let end = bytes.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &bytes[start..=end],
        _ => &[],
    }
}

/// Returns the object that `text` begins with and its length; nothing and 0 where it is cut off.
fn first_object(text: &str) -> (Option<Map<String, Value>>, usize) {
    let mut stream = Deserializer::from_str(text).into_iter::<Map<String, Value>>();
    match stream.next() {
        Some(Ok(object)) => (Some(object), stream.byte_offset()),
        _ => (None, 0),
    }
}

/// Whether an object inside a damaged record is a separate record. Every record that is used names
/// its session (measured on 2.1.197 and 2.1.330).
fn is_record(object: &Map<String, Value>) -> bool {
    object.contains_key("type") && object.contains_key("sessionId")
}

/// Returns where the next record begins in a text that begins with a damaged one; the text's end
/// where none does.
///
/// The damaged record may contain whole objects. A record is an object that looks like one and
/// reaches to the end of the line, or is followed by another object.
fn next_record(text: &str, attempts: &mut usize) -> usize {
    let candidates = text.match_indices("{\"").map(|(at, _)| at);
    for at in candidates.filter(|at| *at > 0) {
        *attempts += 1;
        if *attempts > ATTEMPTS {
            break;
        }
        if let (Some(object), used) = first_object(&text[at..]) {
            let after = text[at + used..].trim_start_matches(is_blank);
            if is_record(&object) && (after.is_empty() || after.starts_with('{')) {
                return at;
            }
        }
    }
    text.len()
}

/// Replaces each unpaired half of a surrogate pair by the replacement character.
fn whole_surrogates(text: &str) -> Cow<'_, str> {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let used = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str("\\ufffd");
                rest = &rest[6..];
                continue;
            }
            // An escaped backslash must not combine its second half with the text that follows.
            _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..used]);
        rest = &rest[used..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Returns the code unit of a `\uXXXX` that `text` begins with.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(line: &[u8]) -> (Vec<String>, u64) {
        let parsed = parse(line);
        let types = parsed
            .objects
            .iter()
            .map(|object| object["type"].as_str().unwrap().to_owned())
            .collect();
        (types, parsed.skipped)
    }

    #[test]
    fn two_objects_on_one_line_are_both_read() {
        assert_eq!(
            types(br#"{"type":"a"}{"type":"b"}"#),
            (vec!["a".to_owned(), "b".to_owned()], 0)
        );
    }

    #[test]
    fn a_whole_record_after_a_damaged_one_on_its_line_is_found() {
        let broken = r#"{"type":"user","message":{"usage":{"type":"x"},"content":"abc"#;
        let line = format!(
            r#"{broken}{{"parentUuid":null,"message":{{"a":1}},"type":"b","sessionId":"s"}}"#
        );
        assert_eq!(
            types(line.as_bytes()),
            (vec!["b".to_owned()], broken.len() as u64)
        );
    }

    #[test]
    fn nulls_before_between_and_after_records_are_skipped() {
        let line = b"\0\0{\"type\":\"a\"}\0\0\0{\"type\":\"b\"}\0\0";
        assert_eq!(types(line), (vec!["a".to_owned(), "b".to_owned()], 0));
        assert_eq!(types(&[0; 512]), (vec![], 0));
    }

    #[test]
    fn a_record_damaged_by_nulls_does_not_hide_the_next() {
        let line = b"{\"type\":\"a\",\"x\":\"12\0\0\0\0{\"type\":\"b\",\"sessionId\":\"s\"}";
        assert_eq!(types(line).0, ["b"]);
    }

    #[test]
    fn half_an_emoji_and_invalid_utf8_lose_one_character_and_not_the_record() {
        let parsed = parse(br#"{"type":"a","t":"x\ud83d","u":"\ud83d\ude00","v":"\\ud83d"}"#);
        assert_eq!(parsed.objects[0]["t"], "x\u{fffd}");
        assert_eq!(parsed.objects[0]["u"], "\u{1f600}");
        assert_eq!(parsed.objects[0]["v"], "\\ud83d");
        assert_eq!(types(b"{\"type\":\"a\",\"t\":\"\xff\"}").0, ["a"]);
    }

    #[test]
    fn a_line_of_nonsense_ends() {
        assert_eq!(types("{\"{\"".repeat(50_000).as_bytes()).0.len(), 0);
        assert_eq!(types(b"nonsense"), (vec![], 8));
    }

    #[test]
    fn only_a_whole_object_passes_as_an_unfinished_line() {
        assert!(parse_exactly(b"{\"type\":\"a\"}").is_some());
        assert!(parse_exactly(b"{\"type\":{\"a\":1}").is_none());
        assert!(parse_exactly(b"").is_none());
    }
}
