//! Runs git with the user's own configuration.

use std::path::Path;
use std::process::Command;

/// Returns a git command in `dir` for an action that users asked for: with their own configuration,
/// and their password if need be. Not for a repository that an agent has worked in and the user has
/// not just named.
#[must_use]
pub fn as_user(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).env("LC_ALL", "C");
    // Variables that lead to another repository are removed; how to reach a remote is left to the
    // user's configuration.
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

/// Returns a URL to show to people: without its password or token.
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
            // A token may be in the position of the user name.
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
    fn a_password_in_a_url_is_not_shown() {
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
