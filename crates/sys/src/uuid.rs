//! Generates and checks UUIDs.

use uuid::Uuid;

/// Returns a new random id (version 4), the form that Claude Code requires for session ids.
#[must_use]
pub fn new_uuid() -> String {
    Uuid::new_v4().to_string()
}

/// Whether a text is a UUID in its usual form.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && Uuid::parse_str(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_as_claude_writes_it_and_no_two_are_the_same() {
        let (one, two) = (new_uuid(), new_uuid());
        assert!(is_uuid(&one) && is_uuid(&two) && one != two);
        assert_eq!(&one[14..15], "4", "{one}");
        let bare = one.replace('-', "");
        for other in [&bare, &format!("{{{one}}}"), &format!("{bare}----"), ""] {
            assert!(!is_uuid(other), "{other}");
        }
    }
}
