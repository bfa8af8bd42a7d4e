//! The user account that owns the agents, created again with the same user id on a new machine.
//!
//! Root records it in `bin/owner.json`, which only root can write, and trusts only that file.
//! `root.json` says the same for people; an agent could write anything there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use state::VERSION;
use sys::command;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow, bail, ensure};
use sys::prefix::Prefix;

/// A directory service may answer slowly; a shadow file may be locked.
const LIMIT: Duration = Duration::from_secs(30);

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Its own group's id.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: String,
    /// The names of its further groups, sorted.
    pub groups: Vec<String>,
}

/// `bin/owner.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Version of this file's format.
    pub version: u32,
    /// Name of the account.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// Its own group's id.
    pub gid: u32,
    /// Login shell.
    pub shell: String,
    /// Further groups that the account has been in.
    pub groups: Vec<String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Owner {
    /// The record of an account, merged with the previous record.
    #[must_use]
    pub fn from_account(account: &Account, before: Option<&Self>) -> Self {
        let mut groups = before.map_or_else(Vec::new, |owner| owner.groups.clone());
        groups.extend(account.groups.iter().cloned());
        groups.sort();
        groups.dedup();
        Self {
            version: VERSION,
            user: account.name.clone(),
            uid: account.uid,
            gid: account.gid,
            shell: account.shell.clone(),
            groups,
            unknown: before.map_or_else(Map::new, |owner| owner.unknown.clone()),
        }
    }
}

/// The facts from which the account is chosen.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// `--user`.
    pub asked: Option<&'a str>,
    /// The owner that the disk records.
    pub remembered: Option<&'a Owner>,
    /// The owner of the state on a disk without a record: a user ran `init` there.
    pub state_uid: Option<u32>,
    /// The user who ran `sudo`.
    pub sudo_user: Option<&'a str>,
}

/// The requested account, by name, and its ids where they are fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedAccount {
    /// Its name; empty where only the user id is known.
    pub name: String,
    /// Its user id, where files on the disk have it.
    pub uid: Option<u32>,
    /// The record from the last machine.
    pub as_before: Option<Owner>,
}

/// Chooses the account that owns the agents.
///
/// # Errors
/// No account is named, the disk belongs to another user, or it would be root.
pub fn choose(known: &Known) -> Result<RequestedAccount> {
    let requested = if let Some(owner) = known.remembered {
        if let Some(asked) = known.asked
            && asked != owner.user
        {
            return Err(anyhow!(
                "this disk holds the agents of {}, not of {asked}",
                owner.user
            ))
            .hint(format!("omit --user, or use --user {}", owner.user));
        }
        RequestedAccount {
            name: owner.user.clone(),
            uid: Some(owner.uid),
            as_before: Some(owner.clone()),
        }
    } else {
        let name = known
            .asked
            .or(known.sudo_user.filter(|_| known.state_uid.is_none()));
        if name.is_none() && known.state_uid.is_none() {
            return Err(anyhow!("no user was named as the owner of the agents"))
                .hint("--user NAME: an account that exists, or one to create")
                .kind(ErrorKind::Usage);
        }
        RequestedAccount {
            name: name.unwrap_or_default().to_owned(),
            uid: known.state_uid,
            as_before: None,
        }
    };
    ensure_good(&requested.name)?;
    if requested.uid == Some(0) || requested.name == "root" {
        return Err(anyhow!("agents do not run as root")).hint("--user agents");
    }
    Ok(requested)
}

/// A name as `useradd` takes it, so that it is never taken for an option or a path.
fn ensure_good(name: &str) -> Result<()> {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = |c: char| first(c) || matches!(c, '-' | '.');
    ensure!(
        name.is_empty() || name.len() <= 32 && name.starts_with(first) && name.chars().all(good),
        "{name:?} is not a valid account name"
    );
    Ok(())
}

/// The decision on the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountDecision {
    /// It exists.
    There(Account),
    /// It has to be created.
    Make(RequestedAccount),
}

/// Compares the requested account with those of this machine with the same name or user id.
///
/// # Errors
/// The name or the user id belongs to another account.
pub fn evaluate(
    requested: &RequestedAccount,
    by_name: Option<Account>,
    by_uid: Option<Account>,
) -> Result<AccountDecision> {
    match (requested.uid, by_name, by_uid) {
        (Some(uid), Some(account), _) if account.uid != uid => Err(anyhow!(
            "the disk belongs to user id {uid}, and {} has user id {} on this machine",
            account.name,
            account.uid
        ))
        .hint(format!("sudo usermod -u {uid} {}", account.name)),
        (Some(uid), None, Some(other)) if !requested.name.is_empty() => Err(anyhow!(
            "{} had user id {uid}, which {} has on this machine",
            requested.name,
            other.name
        ))
        .hint(format!(
            "sudo usermod -u NEW {0}    # NEW: a free user id",
            other.name
        )),
        (_, Some(account), _) | (Some(_), None, Some(account)) => {
            if account.uid == 0 {
                return Err(anyhow!("agents do not run as root")).hint("--user agents");
            }
            Ok(AccountDecision::There(account))
        }
        (Some(uid), None, None) if requested.name.is_empty() => Err(anyhow!(
            "the data directory belongs to user id {uid}, which has no account on this machine"
        ))
        .hint("--user NAME"),
        (_, None, _) => Ok(AccountDecision::Make(requested.clone())),
    }
}

/// Finds an account by name or user id.
///
/// # Errors
/// The accounts cannot be read.
pub fn find(place: &Prefix, key: &str) -> Result<Option<Account>> {
    if key.is_empty() {
        return Ok(None);
    }
    // On Google Cloud with OS Login, accounts are not in a file.
    let line = if place.is_real() {
        let mut command = Command::new("getent");
        command.args(["passwd", "--", key]);
        let output = command::run(&mut command, LIMIT)?;
        output.stdout.lines().next().map(str::to_owned)
    } else {
        let text = fs::read_to_string(place.join("/etc/passwd")).unwrap_or_default();
        text.lines()
            .find(|line| {
                let mut fields = line.split(':');
                fields.next() == Some(key) || fields.nth(1) == Some(key)
            })
            .map(str::to_owned)
    };
    line.map(|line| account(place, &line)).transpose()
}

fn account(place: &Prefix, line: &str) -> Result<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else {
        bail!("not an account: {line}");
    };
    let number = |text: &str| text.parse::<u32>().context("an account without a user id");
    Ok(Account {
        name: name.to_owned(),
        uid: number(uid)?,
        gid: number(gid)?,
        home: place.join(home),
        shell: shell.to_owned(),
        groups: groups(place, name),
    })
}

fn groups(place: &Prefix, user: &str) -> Vec<String> {
    let file = || {
        let text = fs::read_to_string(place.join("/etc/group")).unwrap_or_default();
        let of_user = text.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_member = fields.get(3)?.split(',').any(|member| member == user);
            is_member.then(|| fields.first().map(|name| (*name).to_owned()))?
        });
        of_user.collect()
    };
    let mut groups: Vec<String> = file();
    groups.sort();
    groups
}

/// Creates an account with its home, and adds it to its further groups where they exist.
///
/// # Errors
/// The tools are missing, or refuse.
pub fn make(place: &Prefix, requested: &RequestedAccount) -> Result<Account> {
    let prefix = |command: &mut Command| {
        if !place.is_real() {
            command.arg("--prefix").arg(place.prefix());
        }
    };
    let name = &requested.name;
    let mut add = Command::new("useradd");
    prefix(&mut add);
    add.arg("--create-home");
    if let Some(owner) = &requested.as_before {
        let text = fs::read_to_string(place.join("/etc/group")).unwrap_or_default();
        let gid = owner.gid.to_string();
        if !text
            .lines()
            .any(|line| line.split(':').nth(2) == Some(&gid))
        {
            let mut group = Command::new("groupadd");
            prefix(&mut group);
            group.args(["--gid", &gid, name]);
            checked(&mut group)?;
        }
        add.args(["--gid", &gid, "--shell", &owner.shell]);
        let known = |group: &&String| {
            text.lines()
                .any(|line| line.split(':').next() == Some(group.as_str()))
        };
        let further: Vec<&str> = owner
            .groups
            .iter()
            .filter(known)
            .map(String::as_str)
            .collect();
        if !further.is_empty() {
            add.arg("--groups").arg(further.join(","));
        }
    } else {
        add.args(["--user-group", "--shell", "/bin/bash"]);
    }
    if let Some(uid) = requested.uid {
        add.args(["--uid", &uid.to_string()]);
    }
    checked(add.arg(name))?;
    find(place, name)?.with_context(|| format!("useradd created {name}, and it does not exist"))
}

fn checked(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command::run(command, LIMIT)?;
    if !output.status.success() {
        bail!("{name} failed: {}", output.stderr);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::error::hint_of;

    fn person(name: &str, uid: u32) -> Account {
        Account {
            name: name.into(),
            uid,
            gid: uid,
            home: format!("/home/{name}").into(),
            shell: "/bin/bash".into(),
            groups: vec![],
        }
    }

    #[test]
    fn a_disk_keeps_the_owner_that_it_records() {
        let owner = Owner::from_account(&person("ann", 1001), None);
        let known = Known {
            remembered: Some(&owner),
            sudo_user: Some("bob"),
            ..Known::default()
        };
        assert_eq!(choose(&known).unwrap().name, "ann");
        let known = Known {
            asked: Some("bob"),
            ..known
        };
        assert!(choose(&known).unwrap_err().to_string().contains("of ann"));
    }

    #[test]
    fn a_new_disk_belongs_to_the_named_user_or_the_user_of_sudo_and_never_to_root() {
        let name = |asked, sudo_user| {
            choose(&Known {
                asked,
                sudo_user,
                ..Known::default()
            })
            .map(|requested| requested.name)
        };
        assert_eq!(name(Some("ann"), Some("bob")).unwrap(), "ann");
        assert_eq!(name(None, Some("bob")).unwrap(), "bob");
        assert!(
            hint_of(&name(None, None).unwrap_err())
                .unwrap()
                .contains("--user")
        );
        assert!(name(Some("root"), None).is_err());
        assert!(name(Some("-u"), None).is_err());
        assert!(name(Some("a/b"), None).is_err());
    }

    #[test]
    fn a_taken_name_or_user_id_is_an_error_and_an_absent_account_is_created() {
        let owner = Owner::from_account(&person("ann", 1001), None);
        let requested = choose(&Known {
            remembered: Some(&owner),
            ..Known::default()
        })
        .unwrap();
        let there = evaluate(
            &requested,
            Some(person("ann", 1001)),
            Some(person("ann", 1001)),
        )
        .unwrap();
        assert_eq!(there, AccountDecision::There(person("ann", 1001)));
        let error = evaluate(&requested, Some(person("ann", 1000)), None).unwrap_err();
        assert_eq!(hint_of(&error), Some("sudo usermod -u 1001 ann"));
        assert!(evaluate(&requested, None, Some(person("bob", 1001))).is_err());
        assert!(matches!(
            evaluate(&requested, None, None).unwrap(),
            AccountDecision::Make(_)
        ));
        // A data directory that a user made with `init` and moved here.
        let moved = RequestedAccount {
            name: String::new(),
            uid: Some(1001),
            as_before: None,
        };
        let there = evaluate(&moved, None, Some(person("eve", 1001))).unwrap();
        assert_eq!(there, AccountDecision::There(person("eve", 1001)));
        assert!(evaluate(&moved, None, None).is_err());
    }

    #[test]
    fn groups_are_remembered_once_they_were_seen() {
        let mut ann = person("ann", 1001);
        ann.groups = vec!["sudo".into()];
        let first = Owner::from_account(&ann, None);
        ann.groups = vec!["docker".into()];
        assert_eq!(
            Owner::from_account(&ann, Some(&first)).groups,
            ["docker", "sudo"]
        );
    }
}
