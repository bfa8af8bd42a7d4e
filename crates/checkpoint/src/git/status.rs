//! Parser of `git status --porcelain=v2 -z`.

/// How a file on the disk differs from the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is not on the disk.
    Gone,
    /// Its content, its mode or its type differs; or it is in a conflict.
    Changed,
    /// The index does not know it. A path that ends in `/` is another repository.
    Untracked,
}

/// Reads the output of `status --porcelain=v2 -z --no-renames`: what differs between the index and
/// the disk. Differences between HEAD and the index are left out.
#[must_use]
pub fn read(answer: &[u8]) -> Vec<(Change, Vec<u8>)> {
    answer.split(|byte| *byte == 0).filter_map(line).collect()
}

/// Returns the directories that git could not open, from its warnings: its output lacks what is in
/// them.
#[must_use]
pub fn closed(stderr: &str) -> Vec<String> {
    let path = |line: &str| {
        let rest = line.strip_prefix("warning: could not open directory '")?;
        let (path, why) = rest.rsplit_once("': ")?;
        // The directory vanished during the call.
        (why != "No such file or directory").then(|| format!("{path}: {why}"))
    };
    stderr.lines().filter_map(path).collect()
}

fn line(line: &[u8]) -> Option<(Change, Vec<u8>)> {
    // Fields before the path: `1 XY sub mH mI mW hH hI`, `u XY sub m1 m2 m3 mW h1 h2 h3`.
    let fields = match line.first()? {
        b'1' => 8,
        b'u' => 10,
        b'?' => return Some((Change::Untracked, line.get(2..)?.to_vec())),
        _ => return None,
    };
    let path = line.splitn(fields + 1, |byte| *byte == b' ').nth(fields)?;
    let change = match (line[0], line.get(3)?) {
        (b'1', b'.') => return None,
        (_, b'D') => Change::Gone,
        _ => Change::Changed,
    };
    Some((change, path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_may_not_be_read_is_named_and_one_that_vanished_is_not() {
        let said = "warning: could not open directory 'data/': Permission denied\n\
                    warning: could not open directory 'tmp/x/': No such file or directory\n\
                    warning: something else";
        assert_eq!(closed(said), ["data/: Permission denied"]);
    }

    #[test]
    fn only_differences_from_the_index_are_read_whatever_their_names() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let answer = format!(
            "1 M. N... 100644 100644 100644 {id} {id} staged\0\
             1 MM N... 100644 100644 100644 {id} {id} a name\nwith all\0\
             1 .D N... 100644 100644 000000 {id} {id} gone\0\
             u UU N... 100644 100644 100644 100644 {id} {id} {id} both\0\
             ? new/\0"
        );
        let read = read(answer.as_bytes());
        let expected = [
            (Change::Changed, "a name\nwith all"),
            (Change::Gone, "gone"),
            (Change::Changed, "both"),
            (Change::Untracked, "new/"),
        ];
        assert_eq!(
            read,
            expected.map(|(change, path)| (change, path.as_bytes().to_vec()))
        );
    }
}
