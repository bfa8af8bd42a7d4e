//! Users of this machine.

use std::fs;
use std::path::PathBuf;

/// The real user id of this process.
#[must_use]
pub fn id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The name of a user, from `/etc/passwd`; the number where it has none.
#[must_use]
pub fn name(uid: u32) -> String {
    let number = uid.to_string();
    fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|passwd| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == number).then(|| name.to_owned())
            })
        })
        .unwrap_or(number)
}

/// The home of a user, from `/etc/passwd`.
#[must_use]
pub fn home(uid: u32) -> Option<PathBuf> {
    let number = uid.to_string();
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let mut of_user = passwd
        .lines()
        .filter(|line| line.split(':').nth(2) == Some(&number));
    Some(of_user.next()?.split(':').nth(5)?.into())
}
