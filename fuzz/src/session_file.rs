//! Fuzzes the parsers of Claude's `sessions/<pid>.json` and of `/proc/PID/stat`.
//!
//! The program and the drill have separate parsers of session files.

use claude::{Status, session_file};
use drill::session_file as drill;
use sys::process::parse_stat;

/// The two parsers agree on the fields that both read.
pub fn check(bytes: &[u8]) {
    let file = session_file::parse(bytes);
    let live = drill::parse(bytes);
    if let (Some(file), Some((process, live))) = (&file, &live) {
        assert_eq!(file.process, *process);
        assert_eq!(file.session_id, live.session_id);
        assert_eq!(file.name.as_ref(), Some(&live.name));
        let word = match &file.status {
            None => "",
            Some(Status::Busy) => "busy",
            Some(Status::Idle) => "idle",
            Some(Status::Waiting { .. }) => "waiting",
            Some(Status::Shell) => "shell",
            Some(Status::Unknown(word)) => word,
        };
        assert_eq!(word, live.status);
    }
    // A truncated file is either invalid or the same session.
    let cut = &bytes[..super::choice(bytes, bytes.len())];
    if let (Some(file), Some(truncated)) = (file, session_file::parse(cut)) {
        assert_eq!(file, truncated);
    }
    a_process_name_may_be_any_bytes(bytes);
}

/// A process name of at most 15 bytes may contain what looks like its end.
fn a_process_name_may_be_any_bytes(bytes: &[u8]) {
    assert!(parse_stat(bytes).is_none() || bytes.contains(&b')'));
    let name = &bytes[..bytes.len().min(15)];
    let fields = b") S 3 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 2 3\n";
    let stat = [b"7 (", name, fields].concat();
    assert_eq!(parse_stat(&stat), Some(('S', 99)));
}
