//! git as the user would type it.

use std::path::Path;
use std::process::Command;

/// A git command in `dir` as the user would type it, for what they asked for themselves: with their own
/// configuration, and their password if need be. Not for a repository that an agent has worked in and the
/// user has not just named.
#[must_use]
pub fn as_user(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).env("LC_ALL", "C");
    // Those that lead to another repository; how to reach a remote is the user's to say.
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
    ] {
        command.env_remove(name);
    }
    command
}

/// A URL for people: a password in it is nobody's business.
#[must_use]
pub fn without_secret(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, None), |(a, p)| (a, Some(p)));
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            // A token may stand in the user's place.
            None if scheme.starts_with("http") => format!("***@{host}"),
            None => format!("{user}@{host}"),
        },
        None => authority.to_owned(),
    };
    match path {
        Some(path) => format!("{scheme}://{authority}/{path}"),
        None => format!("{scheme}://{authority}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_shown_to_nobody() {
        for (url, shown) in [
            ("https://me:s3cret@h/p.git", "https://me:***@h/p.git"),
            ("https://ghp_token@h/p", "https://***@h/p"),
            ("ssh://git@h:22/p", "ssh://git@h:22/p"),
            ("git@h:p", "git@h:p"),
            ("/srv/p", "/srv/p"),
        ] {
            assert_eq!(without_secret(url), shown);
        }
    }
}
