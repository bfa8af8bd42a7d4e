//! Import plan: decides what to do with each session. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::location::{Tie, WorkspaceLocation};
use super::scan::ExistingSession;
use state::AgentName;
use sys::error::{ErrorKind, Hint as _, Result, anyhow};
use sys::time::Timestamp;

/// The user's choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The sessions, by id, by the beginning of the id, or by name; empty: the newest of each
    /// workspace.
    pub sessions: Vec<String>,
    /// Whether sessions of any age are chosen.
    pub all: bool,
    /// Otherwise, how recently a session must have been used.
    pub recent: Duration,
    /// What to do with a workspace outside of the data directory.
    pub outside: WorkspaceTransfer,
    /// Whether a process that has a session open is ended.
    pub end: bool,
    /// The agent's name, where one session is chosen.
    pub name: Option<AgentName>,
}

/// How an agent gets its workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspaceTransfer {
    /// It is used where it is.
    Stay,
    /// It is moved into the data directory.
    Move,
    /// It is copied into the data directory.
    Copy,
}

/// One session and the decision on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub found: ExistingSession,
    /// The agent that it is, or becomes.
    pub name: AgentName,
    /// The decision.
    pub decision: Decision,
}

/// The decision on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It becomes an agent.
    Import {
        /// How it gets its workspace.
        how: WorkspaceTransfer,
        /// The workspace that it will have, absolute.
        workspace: PathBuf,
    },
    /// It was chosen and cannot be imported.
    Refused {
        /// The reason.
        why: String,
        /// A command to paste.
        hint: Option<String>,
    },
    /// It is an agent already.
    Agent,
    /// It was not chosen.
    Left {
        /// The reason.
        why: String,
    },
}

/// Names and workspaces that are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied<'a> {
    /// The data directory.
    pub data_dir: &'a Path,
    /// Names that are in use, those of records among them.
    pub names: BTreeSet<AgentName>,
    /// Workspaces of declared agents, links resolved.
    pub workspaces: BTreeMap<PathBuf, AgentName>,
}

/// Decides on each session, in the order in which they were found.
///
/// # Errors
/// A usage error: a chosen session does not exist, or is ambiguous.
pub fn plan(
    found: &[ExistingSession],
    taken: &Occupied,
    choice: &Choice,
    now: Timestamp,
) -> Result<Vec<Entry>> {
    let chosen = chosen(found, &choice.sessions)?;
    if choice.name.is_some() && chosen.as_ref().is_none_or(|chosen| chosen.len() != 1) {
        return Err(anyhow!("--name is for one session"))
            .hint("spotkeep adopt SESSION --name NAME")
            .kind(ErrorKind::Usage);
    }
    let mut names = taken.names.clone();
    let mut workspaces = taken.workspaces.clone();
    let mut entries = Vec::new();
    for (at, one) in found.iter().enumerate() {
        let name = match (&one.agent, &choice.name) {
            (Some(agent), _) => agent.clone(),
            (None, Some(name)) if chosen.as_ref().is_some_and(|chosen| chosen.contains(&at)) => {
                name.clone()
            }
            _ => name_for(one, &names),
        };
        let is_chosen = chosen.as_ref().is_some_and(|chosen| chosen.contains(&at));
        let decision = if one.agent.is_some() {
            Decision::Agent
        } else {
            let left = match &chosen {
                Some(_) => (!is_chosen).then(|| "not named".to_owned()),
                None => reason_to_skip(one, &workspaces, choice, now),
            };
            match left {
                Some(why) => Decision::Left { why },
                None => decide(one, &name, taken, &names, &workspaces, choice),
            }
        };
        if matches!(decision, Decision::Import { .. } | Decision::Refused { .. }) {
            names.insert(name.clone());
            if let Some(cwd) = &one.cwd {
                workspaces
                    .entry(cwd.clone())
                    .or_insert_with(|| name.clone());
            }
        }
        entries.push(Entry {
            found: one.clone(),
            name,
            decision,
        });
    }
    Ok(entries)
}

/// Returns the indices of the named sessions; `None` where none is named.
fn chosen(found: &[ExistingSession], desired: &[String]) -> Result<Option<BTreeSet<usize>>> {
    if desired.is_empty() {
        return Ok(None);
    }
    let mut chosen = BTreeSet::new();
    for text in desired {
        let is_meant = |one: &ExistingSession| {
            let by_id = text.len() >= 8 && one.session_id.starts_with(text.as_str());
            let by_job = one.job.as_ref().is_some_and(|job| job.id == *text);
            by_id
                || by_job
                || one.title.as_deref() == Some(text)
                || near(one).as_ref().is_some_and(|name| name.as_str() == text)
        };
        let meant: Vec<usize> = (0..found.len())
            .filter(|at| found.get(*at).is_some_and(is_meant))
            .collect();
        match meant.as_slice() {
            [one] => {
                chosen.insert(*one);
            }
            [] => {
                return Err(anyhow!("there is no session {text:?}"))
                    .hint("spotkeep adopt --all")
                    .kind(ErrorKind::Usage);
            }
            [first, ..] => {
                let id = found
                    .get(*first)
                    .map_or("UUID", |one| one.session_id.as_str());
                return Err(anyhow!("{} sessions are called {text:?}", meant.len()))
                    .hint(format!("name it by its id: spotkeep adopt {id}"))
                    .kind(ErrorKind::Usage);
            }
        }
    }
    Ok(Some(chosen))
}

/// Returns why a session that the user did not name is not imported; `None`: it is.
fn reason_to_skip(
    one: &ExistingSession,
    workspaces: &BTreeMap<PathBuf, AgentName>,
    choice: &Choice,
    now: Timestamp,
) -> Option<String> {
    if one.live.as_ref().is_some_and(|live| live.kept) {
        return Some("it is an agent of another data directory".into());
    }
    if let Some(other) = one.cwd.as_ref().and_then(|cwd| workspaces.get(cwd)) {
        return Some(format!("its workspace is that of {other}"));
    }
    if one.place == WorkspaceLocation::Gone {
        return Some("its workspace is gone".into());
    }
    if one.by_program && one.live.is_none() {
        return Some("begun by a program (claude -p)".into());
    }
    let is_recent = now.since(one.changed_at) <= choice.recent;
    if one.live.is_none() && !is_recent && !choice.all {
        return Some(format!("not used since {}", one.changed_at.day()));
    }
    None
}

fn decide(
    one: &ExistingSession,
    name: &AgentName,
    taken: &Occupied,
    names: &BTreeSet<AgentName>,
    workspaces: &BTreeMap<PathBuf, AgentName>,
    choice: &Choice,
) -> Decision {
    let adopt = format!("spotkeep --data-dir {} adopt", taken.data_dir.display());
    let refused = |why: String, hint: Option<String>| Decision::Refused { why, hint };
    let Some(cwd) = &one.cwd else {
        return refused("its transcript names no directory".into(), None);
    };
    if names.contains(name) && one.remembered.as_ref() != Some(name) {
        let hint = format!("{adopt} {} --name NAME", one.session_id);
        return refused(format!("there is an agent {name} already"), Some(hint));
    }
    if let Some(other) = one.others.first() {
        let why = format!(
            "it exists more than once, with different contents: {} and {}",
            one.transcript.display(),
            other.display()
        );
        return refused(why, Some("move all but the right one away".into()));
    }
    if one.place == WorkspaceLocation::Gone {
        let why = format!("its workspace {} is gone", cwd.display());
        return refused(why, Some(format!("git clone URL {}", cwd.display())));
    }
    if let Some(other) = workspaces.get(cwd) {
        let why = format!("its workspace {} is that of {other}", cwd.display());
        return refused(why, Some("each agent needs its own workspace".into()));
    }
    if let Some(live) = &one.live {
        if live.kept {
            let why = format!(
                "it runs as an agent of a spotkeep (pid {})",
                live.process.pid
            );
            return refused(why, None);
        }
        // Claude's daemon would start it again.
        if one.job.is_some() || live.background {
            let id = one.job.as_ref().map_or("ID", |job| &job.id);
            let why = format!(
                "it runs in Claude's background (job {id}, pid {})",
                live.process.pid
            );
            let stop = format!(
                "CLAUDE_CONFIG_DIR={} claude stop {id} && {adopt} --yes {}",
                one.config_dir.display(),
                one.session_id
            );
            return refused(why, Some(stop));
        }
        if !choice.end {
            let hint = format!(
                "leave it with /exit, or have it ended: {adopt} --yes --end {}",
                one.session_id
            );
            return refused(format!("it runs ({})", where_it_runs(one)), Some(hint));
        }
    }
    carry(one, cwd, name, taken.data_dir, choice.outside)
}

/// Describes where a session runs, for people.
#[must_use]
pub fn where_it_runs(one: &ExistingSession) -> String {
    let Some(live) = &one.live else {
        return String::new();
    };
    let status = live.status.as_deref().unwrap_or("claude -p");
    let pane = live.pane.as_ref().map_or_else(String::new, |pane| {
        format!(", tmux pane {} of {}", pane.id, pane.socket.display())
    });
    format!("{status}, pid {}{pane}", live.process.pid)
}

/// Decides how the workspace gets into the data directory, or why it cannot.
fn carry(
    one: &ExistingSession,
    cwd: &Path,
    name: &AgentName,
    data_dir: &Path,
    outside: WorkspaceTransfer,
) -> Decision {
    let stay = Decision::Import {
        how: WorkspaceTransfer::Stay,
        workspace: cwd.to_owned(),
    };
    let WorkspaceLocation::Outside(tie) = &one.place else {
        return stay;
    };
    if outside == WorkspaceTransfer::Stay {
        return stay;
    }
    let verb = if outside == WorkspaceTransfer::Move {
        "moved"
    } else {
        "copied"
    };
    let cwd = cwd.display();
    let (why, hint) = match (tie, outside) {
        (Tie::None, _)
        | (Tie::Linked { inside: true, .. }, WorkspaceTransfer::Move)
        | (Tie::Worktrees(_), WorkspaceTransfer::Copy) => {
            return Decision::Import {
                how: outside,
                workspace: data_dir.join("workspaces").join(name.as_str()),
            };
        }
        (Tie::TooMuch, _) => (
            format!("{cwd} is more than a workspace"),
            "without --move and --copy it stays where it is".to_owned(),
        ),
        (Tie::PartOf(top), _) => (
            format!("{cwd} is a part of the repository {}", top.display()),
            "without --move and --copy it stays where it is".to_owned(),
        ),
        (Tie::Linked { repository, inside }, _) => (
            format!(
                "{cwd} is a worktree of {}, {}",
                repository.display(),
                if *inside {
                    "which can have only one such worktree"
                } else {
                    "which is outside of the data directory and would stay there"
                }
            ),
            if *inside {
                "--move moves it".to_owned()
            } else {
                format!(
                    "bring the repository first: git clone {} {}",
                    repository.display(),
                    data_dir.join("workspaces").join(name.as_str()).display()
                )
            },
        ),
        (Tie::Worktrees(count), _) => (
            format!("{count} worktrees belong to {cwd} and refer to it by its path"),
            "--copy leaves it there for them".to_owned(),
        ),
    };
    Decision::Refused {
        why: format!("its workspace cannot be {verb}: {why}"),
        hint: Some(hint),
    }
}

/// Returns an agent name that resembles the session's title or its workspace's name.
fn near(one: &ExistingSession) -> Option<AgentName> {
    let of_workspace = || one.cwd.as_ref()?.file_name()?.to_str().map(str::to_owned);
    let text = one.title.clone().or_else(of_workspace)?;
    AgentName::near(&text)
}

/// Returns the agent name for a session: from its title or its workspace, with a number if it is in
/// use.
fn name_for(one: &ExistingSession, names: &BTreeSet<AgentName>) -> AgentName {
    if let Some(name) = &one.remembered {
        return name.clone();
    }
    let first = near(one).unwrap_or_else(AgentName::any);
    let numbered = (2..).filter_map(|count| first.numbered(count));
    std::iter::once(first.clone())
        .chain(numbered.take(10_000))
        .find(|name| !names.contains(name))
        .unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Live, Pane, SessionJob};
    use super::*;
    use sys::process::ProcessId;

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-28T12:00:00Z").unwrap()
    }

    fn found(id: char, cwd: &str, days: i64) -> ExistingSession {
        let id: String = "00000000-0000-4000-8000-000000000000".replace('0', &id.to_string());
        ExistingSession {
            transcript: format!("/home/ann/.claude/projects/x/{id}.jsonl").into(),
            session_id: id,
            config_dir: "/home/ann/.claude".into(),
            bytes: 10,
            changed_at: Timestamp::from_millis(now().as_millis() - days * 86_400_000).unwrap(),
            title: None,
            by_program: false,
            cwd: Some(cwd.into()),
            place: WorkspaceLocation::Outside(Tie::None),
            live: None,
            job: None,
            agent: None,
            remembered: None,
            others: Vec::new(),
            arguments: Vec::new(),
        }
    }

    fn live() -> Live {
        Live {
            process: ProcessId {
                pid: 42,
                start_time: 1,
            },
            status: Some("busy".into()),
            in_turn: true,
            pane: Some(Pane {
                socket: "/tmp/tmux-1000/default".into(),
                id: "%3".into(),
            }),
            kept: false,
            background: false,
        }
    }

    fn choice() -> Choice {
        Choice {
            sessions: Vec::new(),
            all: false,
            recent: Duration::from_secs(7 * 86_400),
            outside: WorkspaceTransfer::Stay,
            end: false,
            name: None,
        }
    }

    fn run(found: &[ExistingSession], choice: &Choice) -> Vec<Entry> {
        let occupied = Occupied {
            data_dir: Path::new("/mnt/persist"),
            names: [AgentName::new("api").unwrap()].into(),
            workspaces: [("/srv/taken".into(), AgentName::new("api").unwrap())].into(),
        };
        plan(found, &occupied, choice, now()).unwrap()
    }

    fn action(entry: &Entry) -> &str {
        match &entry.decision {
            Decision::Import { .. } => "take-in",
            Decision::Refused { .. } => "refused",
            Decision::Agent => "agent",
            Decision::Left { .. } => "left",
        }
    }

    #[test]
    fn the_newest_session_of_each_workspace_is_imported_under_an_unused_name() {
        let mut named = found('4', "/srv/b", 1);
        named.title = Some("issue 4: fix".into());
        let mut by_program = found('6', "/srv/d", 0);
        by_program.by_program = true;
        let all = [
            found('1', "/srv/api", 0),
            found('2', "/srv/api", 1),
            found('3', "/srv/old", 30),
            named,
            found('5', "/srv/taken", 0),
            by_program,
        ];
        let entries = run(&all, &choice());
        let words: Vec<&str> = entries.iter().map(action).collect();
        assert_eq!(
            words,
            ["take-in", "left", "left", "take-in", "left", "left"]
        );
        assert_eq!(entries[0].name.as_str(), "api-2");
        assert_eq!(entries[3].name.as_str(), "issue-4--fix");
        let old = Choice {
            all: true,
            ..choice()
        };
        assert_eq!(action(&run(&all, &old)[2]), "take-in");
    }

    #[test]
    fn a_session_that_runs_is_refused_unless_its_end_is_requested() {
        let mut one = found('1', "/srv/a", 30);
        one.live = Some(live());
        let entries = run(&[one.clone()], &choice());
        let Decision::Refused { why, hint } = &entries[0].decision else {
            panic!("{entries:?}");
        };
        assert!(
            why.contains("busy, pid 42, tmux pane %3 of /tmp/tmux-1000/default"),
            "{why}"
        );
        assert!(hint.as_ref().unwrap().contains("adopt --yes --end 1111"));
        let end = Choice {
            end: true,
            ..choice()
        };
        assert_eq!(action(&run(&[one.clone()], &end)[0]), "take-in");
        // A daemon would start it again.
        one.job = Some(SessionJob {
            id: "9a0b".into(),
            state: None,
        });
        let entries = run(&[one.clone()], &end);
        let Decision::Refused { hint, .. } = &entries[0].decision else {
            panic!("{entries:?}");
        };
        let hint = hint.as_ref().unwrap();
        assert!(hint.contains("claude stop 9a0b"), "{entries:?}");
        one.live.as_mut().unwrap().kept = true;
        assert_eq!(action(&run(&[one], &end)[0]), "left");
    }

    #[test]
    fn a_session_is_named_by_its_id_its_beginning_its_title_or_its_workspace() {
        let mut titled = found('2', "/srv/b", 90);
        titled.title = Some("my work".into());
        let all = [found('1', "/srv/a", 90), titled];
        for (text, at) in [
            ("11111111", 0),
            ("a", 0),
            ("my work", 1),
            ("my-work", 1),
            (all[1].session_id.as_str(), 1),
        ] {
            let choice = Choice {
                sessions: vec![text.into()],
                ..choice()
            };
            let entries = run(&all, &choice);
            assert_eq!(action(&entries[at]), "take-in", "{text}");
            assert_eq!(action(&entries[1 - at]), "left", "{text}");
        }
        for text in ["nothing", "1111"] {
            let choice = Choice {
                sessions: vec![text.into()],
                ..choice()
            };
            let occupied = Occupied {
                data_dir: Path::new("/r"),
                names: BTreeSet::new(),
                workspaces: BTreeMap::new(),
            };
            assert!(plan(&all, &occupied, &choice, now()).is_err(), "{text}");
        }
    }

    #[test]
    fn two_named_sessions_of_one_workspace_do_not_become_two_agents() {
        let all = [found('1', "/srv/a", 0), found('2', "/srv/a", 1)];
        let both = Choice {
            sessions: vec!["11111111".into(), "22222222".into()],
            ..choice()
        };
        let entries = run(&all, &both);
        assert_eq!(action(&entries[0]), "take-in");
        assert_eq!(action(&entries[1]), "refused");
    }

    #[test]
    fn a_workspace_is_moved_or_copied_where_nothing_ties_it_to_its_path() {
        let linked = |inside| Tie::Linked {
            repository: "/srv/api/.git".into(),
            inside,
        };
        for (tie, moved, copied) in [
            (Tie::None, true, true),
            (Tie::Worktrees(2), false, true),
            (linked(true), true, false),
            (linked(false), false, false),
            (Tie::PartOf("/srv/x".into()), false, false),
            (Tie::TooMuch, false, false),
        ] {
            let mut one = found('1', "/srv/a", 0);
            one.place = WorkspaceLocation::Outside(tie.clone());
            let with = |outside| {
                let choice = Choice {
                    outside,
                    ..choice()
                };
                let [entry] = &run(&[one.clone()], &choice)[..] else {
                    panic!();
                };
                entry.decision.clone()
            };
            let stays = Decision::Import {
                how: WorkspaceTransfer::Stay,
                workspace: "/srv/a".into(),
            };
            assert_eq!(with(WorkspaceTransfer::Stay), stays, "{tie:?}");
            for (how, can) in [
                (WorkspaceTransfer::Move, moved),
                (WorkspaceTransfer::Copy, copied),
            ] {
                match with(how) {
                    Decision::Import { workspace, .. } => {
                        assert!(can, "{tie:?} {how:?}");
                        assert_eq!(workspace, Path::new("/mnt/persist/workspaces/a"));
                    }
                    Decision::Refused { hint, .. } => {
                        assert!(!can && hint.is_some(), "{tie:?} {how:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_session_without_workspace_or_with_two_transcripts_is_refused() {
        let mut gone = found('1', "/srv/a", 0);
        gone.place = WorkspaceLocation::Gone;
        let mut twice = found('2', "/srv/b", 0);
        twice.others.push("/elsewhere/2.jsonl".into());
        let both = Choice {
            sessions: vec!["11111111".into(), "22222222".into()],
            ..choice()
        };
        let entries = run(&[gone, twice], &both);
        assert!(entries.iter().all(|entry| action(entry) == "refused"));
    }
}
