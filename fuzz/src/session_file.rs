//! `sessions/<pid>.json`, which Claude writes of itself, read by the program and, apart from it, by the drill; and the line
//! of `/proc/PID/stat` that tells whether its process still runs.

use claude::{Status, session_file};
use drill::session_file as drill;
use sys::process::parse_stat;

/// Both readers agree on what they both read.
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
    // What was cut is no file: a torn one is never taken for another session's.
    let cut = &bytes[..super::choice(bytes, bytes.len())];
    if let (Some(file), Some(torn)) = (file, session_file::parse(cut)) {
        assert_eq!(file, torn);
    }
    a_process_may_be_called_anything(bytes);
}

/// A name of 15 bytes at most, in which anything may stand, so also what looks like the end of it.
fn a_process_may_be_called_anything(bytes: &[u8]) {
    assert!(parse_stat(bytes).is_none() || bytes.contains(&b')'));
    let name = &bytes[..bytes.len().min(15)];
    let fields = b") S 3 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 2 3\n";
    let stat = [b"7 (", name, fields].concat();
    assert_eq!(parse_stat(&stat), Some(('S', 99)));
}
