//! Planning of the account, layout, links, programs and units on a mounted disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::account::{self, Account, AccountDecision, Known, Owner, RequestedAccount};
use super::steps::Step;
use super::user_helper::{Report, Request, User};
use super::{Ask, first_boot_script, layout, login_line, packages};
use crate::storage::links::{Link, State};
use crate::storage::merge_tree;
use crate::systemd::install;
use crate::systemd::units::{self, UnitPaths};
use claude::retention;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files;
use sys::secure_dir::{Dir, Entry, Ownership};
use sys::user;

/// The record of the owner, below `bin/`.
pub(super) const OWNER: &str = "owner.json";

/// Decides on the account that owns the agents, and whether it has to be created.
///
/// # Errors
/// No account is named, or its name or user id belongs to another one.
pub fn account(ask: &Ask, tree: Option<&Path>) -> Result<AccountDecision> {
    let remembered = tree.map(remembered).transpose()?.flatten();
    let sudo_user = std::env::var("SUDO_USER")
        .ok()
        .filter(|user| user != "root");
    let known = Known {
        asked: ask.user.as_deref(),
        remembered: remembered.as_ref(),
        state_uid: tree.and_then(state_uid),
        sudo_user: sudo_user.as_deref(),
    };
    let requested = account::choose(&known)?;
    let by_name = account::find(&ask.place, &requested.name)?;
    let by_uid = match requested.uid {
        Some(uid) => account::find(&ask.place, &uid.to_string())?,
        None => None,
    };
    account::evaluate(&requested, by_name, by_uid)
}

/// The owner that the disk records, if only root could have written the record.
pub(super) fn remembered(tree: &Path) -> Result<Option<Owner>> {
    let data_dir = Dir::open(tree)?;
    let is_roots = |entry| match entry {
        Entry::Directory(Ownership { uid: 0, mode, .. }) => mode & 0o022 == 0,
        _ => false,
    };
    if !is_roots(data_dir.entry("bin")?) {
        return Ok(None);
    }
    let Some(bytes) = data_dir.child("bin")?.read(OWNER)? else {
        return Ok(None);
    };
    let path = tree.join("bin").join(OWNER);
    serde_json::from_slice(&bytes)
        .map(Some)
        .with_context(|| format!("{} is damaged", path.display()))
        .hint(format!(
            "sudo mv {0} {0}.damaged    # then set up again with --user NAME",
            path.display()
        ))
}

/// The owner of the state of a data directory. Only root can change a directory's owner.
fn state_uid(tree: &Path) -> Option<u32> {
    match Dir::open(tree).ok()?.entry("session-state").ok()? {
        Entry::Directory(ownership) if ownership.uid != 0 => Some(ownership.uid),
        _ => None,
    }
}

/// An account that is to be created, as far as it is known.
#[must_use]
pub fn planned_account(requested: &RequestedAccount) -> Account {
    let before = requested.as_before.as_ref();
    Account {
        name: requested.name.clone(),
        uid: requested.uid.unwrap_or(u32::MAX),
        gid: before.map_or(u32::MAX, |owner| owner.gid),
        home: Path::new("/home").join(&requested.name),
        shell: before.map_or_else(String::new, |owner| owner.shell.clone()),
        groups: Vec::new(),
    }
}

/// The facts from which the steps are planned.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The account that owns the agents.
    pub account: Account,
    /// The owner that the disk records.
    pub remembered: Option<Owner>,
    /// The directories of the data directory.
    pub layout: layout::LayoutFacts,
    /// The empty ones among them.
    pub empty: BTreeSet<String>,
    /// The report of the user's process.
    pub report: Report,
    /// `/workspaces`.
    pub workspaces: (Link, State),
    /// The spotkeep on the disk: `None` if there is none, `Some(true)` if it is this program.
    pub program: Option<bool>,
    /// Where `spotkeep` would be linked; `None` where something exists.
    pub command: Option<PathBuf>,
    /// The versions of claude that are kept.
    pub kept: Vec<String>,
    /// Whether the claude that root named is among them.
    pub named_is_kept: bool,
    /// Number of units that are missing or differ; `None` without systemd.
    pub units: Option<usize>,
    /// Whether the login snippet has to be written.
    pub login_line: bool,
    /// Whether the keeper's unit runs; `None` where there is no systemd to ask.
    pub active: Option<bool>,
}

/// Gathers the facts of a data directory whose files are at `tree` now. Changes nothing.
///
/// # Errors
/// Something cannot be read.
pub fn gather_facts(ask: &Ask, tree: Option<&Path>, account: &Account) -> Result<Facts> {
    let place = &ask.place;
    let data_dir = place.join(&ask.data_dir);
    let new = Ownership {
        uid: 0,
        gid: 0,
        mode: 0o755,
    };
    let (mut found, mut empty) = (vec![("", Entry::Directory(new))], BTreeSet::new());
    found.extend(["bin", "backups"].map(|name| (name, Entry::Absent)));
    if let Some(tree) = tree {
        let dir = Dir::open(tree)?;
        found = layout::gather_facts(&dir)?;
        for (name, entry) in &found {
            if matches!(entry, Entry::Directory(_)) && !name.is_empty() {
                let names = dir.child(name).and_then(|dir| dir.names());
                if names.is_ok_and(|names| names.is_empty()) {
                    empty.insert((*name).to_owned());
                }
            }
        }
    }
    let kept = tree.map_or_else(Vec::new, kept);
    let named_is_kept = ask.claude.as_ref().is_some_and(|named| {
        let is_it = |kept: &String| {
            let place = tree.unwrap_or(&data_dir).join("bin/claude").join(kept);
            is_same(named, &place.join("claude")).unwrap_or(false)
        };
        kept.iter().any(is_it)
    });
    let report = if account.home.is_dir() {
        let request = Request::Look {
            tree: tree.map(Path::to_path_buf),
            data_dir: data_dir.clone(),
            home: account.home.clone(),
            machine: first_boot_script::id(place),
            claude: kept.is_empty() && ask.claude.is_none(),
        };
        User::new(account, place)?.inspect(&request)?
    } else {
        // A home that setup creates is empty.
        let links = crate::storage::links::home_links(&account.home, &data_dir, &[])?;
        let links = links
            .into_iter()
            .map(|link| (link, State::Absent))
            .collect();
        Report {
            links,
            ..Report::default()
        }
    };
    let workspaces = Link {
        at: place.join("/workspaces"),
        to: data_dir.join("workspaces"),
    };
    let state = workspaces.state()?;
    let command = place.join("/usr/local/bin/spotkeep");
    let is_ours = fs::read_link(&command).is_ok_and(|to| to == data_dir.join("bin/spotkeep"));
    // A program that another user has put there stays; a dangling link does not.
    let is_free = !is_ours && !command.exists() && command.parent().is_some_and(Path::is_dir);
    let units = unit_paths(ask, account)
        .map(|paths| -> Result<usize> {
            let missing = install::differences(place.prefix(), &paths)?.len();
            Ok(if missing == 0 && !install::is_enabled(place.prefix())? {
                1
            } else {
                missing
            })
        })
        .transpose()?;
    let line = place.join(login_line::PATH);
    let requested = login_line::snippet(&data_dir.join("bin/spotkeep"), &data_dir, account.uid)?;
    let has_profiles = line.parent().is_some_and(Path::is_dir);
    let login_line = has_profiles && fs::read_to_string(line).ok() != Some(requested);
    Ok(Facts {
        login_line,
        account: account.clone(),
        remembered: tree.map(remembered).transpose()?.flatten(),
        layout: found,
        empty,
        report,
        workspaces: (workspaces, state),
        program: tree.map(program).transpose()?.flatten(),
        command: is_free.then_some(command),
        kept,
        named_is_kept,
        units,
        active: place
            .has_systemd()
            .then(|| install::is_active(units::KEEPER))
            .transpose()?,
    })
}

/// The values for the units of this machine; `None` without systemd.
pub(super) fn unit_paths(ask: &Ask, account: &Account) -> Option<UnitPaths> {
    let data_dir = ask.place.join(&ask.data_dir);
    let has_systemd = ask.place.join("/etc/systemd/system").is_dir() && packages::has("systemctl");
    has_systemd.then(|| UnitPaths {
        program: data_dir.join("bin/spotkeep"),
        is_mount: ask.disk.is_some() || files::is_mount_point(&data_dir).unwrap_or(false),
        user: account.name.clone(),
        home: account.home.clone(),
        data_dir,
    })
}

/// The versions of claude that are kept on the disk.
fn kept(tree: &Path) -> Vec<String> {
    let entries = fs::read_dir(tree.join("bin/claude")).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry
                .path()
                .join("claude")
                .is_file()
                .then(|| entry.file_name().into_string().ok())?
        })
        .collect()
}

/// Whether the program on the disk is this one.
fn program(tree: &Path) -> Result<Option<bool>> {
    let there = tree.join("bin/spotkeep");
    if !there.is_file() {
        return Ok(None);
    }
    let this = std::env::current_exe().context("cannot find the path of this program")?;
    is_same(&this, &there).map(Some)
}

fn is_same(one: &Path, other: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (a, b) = (fs::metadata(one)?, fs::metadata(other)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()) || merge_tree::same_bytes(one, other)?)
}

/// Plans the steps, and returns the problems that do not stop the set-up.
///
/// # Errors
/// Something is in the way that only a human can decide on. With a hint.
pub fn plan(facts: &Facts, ask: &Ask) -> Result<(Vec<Step>, Vec<String>)> {
    let Facts {
        account, report, ..
    } = facts;
    let mut steps = Vec::new();
    let mut problems = report.problems.clone();
    if let Some((why, hint)) = &report.busy {
        return Err(anyhow!("{why}"))
            .hint(hint.clone())
            .kind(ErrorKind::Failed);
    }
    let is_empty = |name: &str| facts.empty.contains(name);
    let fixes = layout::fixes(&facts.layout, account.uid, account.gid, is_empty)?;
    if !fixes.is_empty() {
        steps.push(Step::Layout(fixes, account.name.clone()));
    }
    if !report.inhabited {
        steps.push(Step::Inhabit);
    }
    let owner = Owner::from_account(account, facts.remembered.as_ref());
    if facts.remembered.as_ref() != Some(&owner) {
        steps.push(Step::Remember(owner));
    }
    if facts.program != Some(true) {
        let replaces = facts.program.is_some();
        steps.push(Step::Program { replaces });
    }
    steps.extend(facts.command.clone().map(Step::Command));
    steps.extend(claude(facts, ask, &mut problems));
    for (link, state) in &report.links {
        match state {
            State::Right => {}
            // A disk that is ready has no such file until Claude has been started once.
            State::Elsewhere(target) => problems.push(format!(
                "{} is a link to {} and was left as it is; move its target into {}, remove it, \
                 and run this again",
                link.at.display(),
                target.display(),
                link.to.display()
            )),
            state => steps.push(Step::Link(link.clone(), state.clone())),
        }
    }
    match &facts.workspaces {
        (_, State::Right) => {}
        (link, State::Elsewhere(target)) => problems.push(format!(
            "{} is a link to {} and was left as it is",
            link.at.display(),
            target.display()
        )),
        (link, state) => steps.push(Step::Workspaces(link.clone(), state.clone())),
    }
    if ask.retain && !retention::is_enough(report.retention) {
        steps.push(Step::Retain);
    }
    let units = facts.units.unwrap_or(0);
    if units > 0 {
        steps.push(Step::Units(units));
    }
    if facts.login_line {
        steps.push(Step::LoginLine);
    }
    steps.extend(report.pending.clone().map(Step::Script));
    if let Some(active) = facts.active
        && ask.start
    {
        if active && facts.program == Some(false) {
            steps.push(Step::Start { restart: true });
        } else if !active && report.keeper {
            problems.push(
                "a keeper runs that systemd did not start; run spotkeep down, then run this again"
                    .to_owned(),
            );
        } else if !active {
            steps.push(Step::Start { restart: false });
        }
    }
    Ok((steps, problems))
}

/// The step that keeps a claude on the disk: the one that root named, or the user's if none is kept
/// yet.
fn claude(facts: &Facts, ask: &Ask, problems: &mut Vec<String>) -> Option<Step> {
    if let Some(from) = &ask.claude {
        return (!facts.named_is_kept).then(|| Step::Claude {
            version: None,
            from: from.clone(),
            by_root: true,
        });
    }
    if !facts.kept.is_empty() {
        return None;
    }
    let Some((version, from)) = &facts.report.claude else {
        problems.push(
            "no claude is kept on the disk, so a new machine has none: install Claude Code for \
             the user, or name its program with --claude FILE"
                .to_owned(),
        );
        return None;
    };
    Some(Step::Claude {
        version: Some(version.clone()),
        from: from.clone(),
        by_root: false,
    })
}

/// Checks that this process runs as root.
///
/// # Errors
/// It runs as another user.
pub fn ensure_is_root() -> Result<()> {
    if user::id() == 0 {
        return Ok(());
    }
    Err(anyhow!("setting up a machine needs root")).hint("sudo spotkeep setup --disk NAME")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::prefix::Prefix;

    fn dir(uid: u32, gid: u32, mode: u32) -> Entry {
        Entry::Directory(Ownership { uid, gid, mode })
    }

    fn ask() -> Ask {
        Ask {
            retain: true,
            ..Ask::new("/mnt/persist".into(), Prefix::new(None))
        }
    }

    fn link(state: State) -> (Link, State) {
        let link = Link {
            at: "/home/ann/.claude".into(),
            to: "/mnt/persist/.claude".into(),
        };
        (link, state)
    }

    fn ready() -> Facts {
        let account = Account {
            name: "ann".into(),
            uid: 1001,
            gid: 1001,
            home: "/home/ann".into(),
            shell: "/bin/bash".into(),
            groups: vec![],
        };
        Facts {
            remembered: Some(Owner::from_account(&account, None)),
            account,
            layout: vec![
                ("", dir(0, 1001, 0o1775)),
                ("bin", dir(0, 0, 0o755)),
                ("backups", dir(0, 0, 0o700)),
                ("home", dir(1001, 1001, 0o700)),
            ],
            empty: BTreeSet::new(),
            report: Report {
                inhabited: true,
                links: vec![link(State::Right)],
                retention: Some(3650),
                ..Report::default()
            },
            workspaces: link(State::Right),
            program: Some(true),
            command: None,
            kept: vec!["2.1.330".into()],
            named_is_kept: false,
            units: Some(0),
            login_line: false,
            active: Some(true),
        }
    }

    fn descriptions(facts: &Facts) -> Vec<String> {
        plan(facts, &ask())
            .unwrap()
            .0
            .iter()
            .map(Step::describe)
            .collect()
    }

    #[test]
    fn a_machine_that_is_ready_needs_nothing() {
        assert_eq!(plan(&ready(), &ask()).unwrap(), (vec![], vec![]));
    }

    #[test]
    fn a_new_boot_disk_gets_its_links_units_and_script_and_then_the_keeper() {
        let mut facts = ready();
        facts.report.links = vec![link(State::Absent)];
        facts.report.pending = Some("provision.sh".into());
        facts.units = Some(4);
        facts.active = Some(false);
        assert_eq!(
            descriptions(&facts),
            [
                "link /home/ann/.claude to /mnt/persist/.claude",
                "write and enable the units of spotkeep (4 files)",
                "run provision.sh as the user, once on this boot disk",
                "start the keeper",
            ]
        );
    }

    #[test]
    fn another_version_replaces_the_one_on_the_disk_and_agents_go_on() {
        let mut facts = ready();
        facts.program = Some(false);
        let steps = descriptions(&facts);
        assert!(steps[0].contains("spotkeep.prev"), "{steps:?}");
        assert_eq!(steps[1], "restart the keeper; agents go on");
    }

    #[test]
    fn a_link_of_another_user_is_a_problem_and_the_rest_goes_on() {
        let mut facts = ready();
        facts.report.links = vec![link(State::Elsewhere("/srv/dotfiles".into()))];
        let (steps, problems) = plan(&facts, &ask()).unwrap();
        assert!(steps.is_empty() && problems[0].contains("/srv/dotfiles"));
    }

    #[test]
    fn content_that_a_process_uses_stops_everything() {
        let mut facts = ready();
        facts.report.busy = Some(("it is in use by 7".into(), "kill 7".into()));
        let error = plan(&facts, &ask()).unwrap_err();
        assert_eq!(sys::error::hint_of(&error), Some("kill 7"));
    }

    #[test]
    fn a_disk_without_a_claude_says_how_to_give_it_one() {
        let mut facts = ready();
        facts.kept.clear();
        let (steps, problems) = plan(&facts, &ask()).unwrap();
        assert!(steps.is_empty() && problems[0].contains("--claude FILE"));
        facts.report.claude = Some(("2.1.330".into(), "/home/ann/.local/bin/claude".into()));
        assert_eq!(
            descriptions(&facts),
            ["keep the claude 2.1.330 of /home/ann/.local/bin/claude on the disk"]
        );
    }
}
