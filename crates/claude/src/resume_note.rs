//! Resume note: the prompt that tells an agent what was cut off when its process ended. Pure.
//!
//! Claude Code drops or closes a call without a result when it resumes, so without a note the model
//! does not know that a command may have run (measured on 2.1.197 and 2.1.330). The note is an
//! argument of the process and thus visible to every user of the machine: it names the tool, never
//! its input. The rest is in a file.

use std::path::Path;

use super::api_error::ApiStop;
use super::transcript::tail::{OpenTool, Tail};
use super::transcript::tail_state::{NUDGE_MARK, OWN_MARK};
use sys::time::{Timestamp, short};

/// Longest name of a tool in a note, in characters; names of MCP tools come from others.
const NAME_LIMIT: usize = 64;

/// Longest text about the workspace in a note, in characters; the file has all of it.
const WORKSPACE_LIMIT: usize = 400;

/// Why Claude ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The machine was preempted and this is another boot.
    Preempted {
        /// Whether there was time for an orderly stop.
        noticed: bool,
    },
    /// A user shut the machine down in order, and this is another boot.
    ShutDown,
    /// Its process ended without a request, and how.
    Crashed(String),
    /// It was stopped and started on the same machine.
    Restarted,
}

/// Facts about a turn that was cut off.
#[derive(Debug, Clone)]
pub struct Cut<'a> {
    /// State at the end of the transcript.
    pub what: &'a Tail,
    /// Why Claude Code ended.
    pub cause: &'a Cause,
    /// Whether Claude Code's last status was that it waits for a permission: then the open tool did
    /// not run.
    pub awaited_permission: bool,
    /// When it was stopped, or its last sign of activity.
    pub cut_at: Option<Timestamp>,
    /// When it is back.
    pub back_at: Timestamp,
    /// The user's last prompt.
    pub last_prompt: Option<&'a str>,
    /// Prompts that the model was never given.
    pub queued: &'a [&'a str],
    /// What happened to its workspace, as sentences.
    pub workspace: Option<&'a str>,
    /// What was lost and restored from a copy, as sentences.
    pub brought_back: &'a [String],
}

/// Returns the note, to be passed as the prompt of the resume; `file` is the path of [`details`].
///
/// `None` where nothing was cut: an idle agent is resumed without a prompt. Prompts that were
/// queued and never given count as cut. Ask [`Tail::was_cut`] first where the last status is known.
#[must_use]
pub fn prompt(cut: &Cut, file: &Path) -> Option<String> {
    let what = lost(cut.what, cut.awaited_permission);
    if what.is_none()
        && cut.queued.is_empty()
        && cut.workspace.is_none()
        && cut.brought_back.is_empty()
    {
        return None;
    }
    let mut note = format!("{OWN_MARK}{}.", when(cut));
    note.push_str(match cut.cause {
        Cause::Preempted { noticed: true } | Cause::ShutDown => {
            " /tmp, servers, containers and shells that were running are gone."
        }
        Cause::Preempted { noticed: false } => {
            " /tmp, servers, containers and shells that were running are gone, and maybe the last \
             seconds of work."
        }
        Cause::Crashed(_) | Cause::Restarted => " Shells that you had running are gone.",
    });
    if let Some(workspace) = cut.workspace {
        note.push(' ');
        note.push_str(&line(workspace, WORKSPACE_LIMIT));
    }
    if let Some(what) = what {
        note.push(' ');
        note.push_str(&what);
        note.push_str(" My last request still stands: go on with it.");
    }
    if !cut.brought_back.is_empty() {
        note.push_str(
            " Part of your state was lost and brought back from an older copy: what came after it \
             is gone from your memory or from the disk, so look before you rely on it.",
        );
    }
    match cut.queued.len() {
        0 => {}
        1 => note.push_str(" One message of mine was never given to you; read it in the file."),
        more => note.push_str(&format!(
            " {more} messages of mine were never given to you; read them in the file."
        )),
    }
    note.push_str(&format!(" Details: {}", file.display()));
    Some(note)
}

/// Returns the prompt to type into an agent whose turn the API has ended.
#[must_use]
pub fn nudge(stop: ApiStop) -> String {
    format!("{NUDGE_MARK}{}. {GO_ON}", stopped(stop))
}

/// Returns the same for its next process, as the prompt of the resume: what ran in the last one has
/// ended.
#[must_use]
pub fn again(stop: ApiStop) -> String {
    let why = stopped(stop);
    format!("{OWN_MARK}Claude Code was restarted; before that, the API {why}. {GO_ON}")
}

const GO_ON: &str = "My last request still stands: go on with it where you were stopped.";

fn stopped(stop: ApiStop) -> &'static str {
    match stop {
        ApiStop::Limit { .. } => "had stopped your last turn at a usage limit, which is over",
        ApiStop::Login => "had refused your login, and there may be one again",
        _ => "did not answer you in your last turn, and may do so again",
    }
}

/// Returns the details as Markdown, for a file that only the user can read.
#[must_use]
pub fn details(cut: &Cut) -> String {
    let mut text = format!("# What was cut off\n\n{}.\n", when(cut));
    if let Some(what) = lost(cut.what, cut.awaited_permission) {
        text.push_str(&format!("\n{what}\n"));
    }
    if let Some(workspace) = cut.workspace {
        text.push_str(&format!("\n{workspace}\n"));
    }
    let cut_at = cut
        .cut_at
        .map_or_else(|| "unknown".to_owned(), Timestamp::for_people);
    text.push_str(&format!(
        "\n- last sign before: {cut_at}\n- back: {}\n",
        cut.back_at.for_people()
    ));
    for what in cut.brought_back {
        text.push_str(&format!("- {what}\n"));
    }
    for tool in tools(cut.what) {
        let input = serde_json::to_string_pretty(&tool.input).unwrap_or_default();
        text.push_str(&format!(
            "\n## {} ({})\n\n{}",
            tool.name,
            tool.id,
            fenced("json", &input)
        ));
    }
    if let Some(prompt) = cut.last_prompt {
        text.push_str(&format!("\n## The last request\n\n{}", fenced("", prompt)));
    }
    for queued in cut.queued {
        text.push_str(&format!(
            "\n## A message that was never given to the agent\n\n{}",
            fenced("", queued)
        ));
    }
    text
}

/// Returns when and why the turn was cut, as the beginning of a sentence.
fn when(cut: &Cut) -> String {
    let why = match cut.cause {
        Cause::Preempted { noticed: true } => "This machine was preempted".to_owned(),
        Cause::ShutDown => "This machine was shut down".to_owned(),
        Cause::Preempted { noticed: false } => "This machine went away without notice".to_owned(),
        Cause::Crashed(how) => format!("Claude Code ended unexpectedly ({})", line(how, 80)),
        Cause::Restarted => "Claude Code was restarted".to_owned(),
    };
    match cut.cut_at {
        Some(at) => format!(
            "{why} at {}; you are back after {}",
            at.for_people(),
            short(cut.back_at.since(at))
        ),
        None => format!("{why}; you are back at {}", cut.back_at.for_people()),
    }
}

/// Returns what was lost and has to be checked; `None` where nothing was.
fn lost(what: &Tail, awaited_permission: bool) -> Option<String> {
    Some(match what {
        Tail::CutInTool { tools } if awaited_permission => format!(
            "{} was waiting for permission and did not run; call it again if it is still needed.",
            names(tools)
        ),
        Tail::CutInTool { tools } => format!(
            "{} was cut off: it may have run in part, in full or not at all, so check its effects \
             before doing it again.",
            names(tools)
        ),
        Tail::CutInStream => "Your answer was cut off before it was recorded.".to_owned(),
        Tail::AwaitingTasks { count: 1 } => {
            "A background task of yours was cut off and will not report: check what it did, and \
             start it again if it is still needed."
                .to_owned()
        }
        Tail::AwaitingTasks { count } => format!(
            "{count} background tasks of yours were cut off and will not report: check what they \
             did, and start again what is still needed.",
        ),
        Tail::WaitingForHuman { tool } if tool.name == "ExitPlanMode" => {
            "Your plan was not answered yet and is gone from the screen: present it again."
                .to_owned()
        }
        Tail::WaitingForHuman { .. } => {
            "Your question was not answered yet and is gone from the screen: ask it again."
                .to_owned()
        }
        Tail::Empty | Tail::Idle | Tail::StoppedByApi { .. } | Tail::InterruptedByUser => {
            return None;
        }
    })
}

fn tools(what: &Tail) -> &[OpenTool] {
    match what {
        Tail::CutInTool { tools } => tools,
        Tail::WaitingForHuman { tool } => std::slice::from_ref(tool),
        _ => &[],
    }
}

fn names(tools: &[OpenTool]) -> String {
    match tools {
        [] => "A tool call".to_owned(),
        [tool] => format!("Your {} call", line(&tool.name, NAME_LIMIT)),
        [tool, rest @ ..] => format!(
            "Each of your {} open tool calls ({} and {} more)",
            tools.len(),
            line(&tool.name, NAME_LIMIT),
            rest.len()
        ),
    }
}

/// Returns at most `limit` characters on one line, without those that a terminal interprets or an
/// argument cannot hold.
fn line(text: &str, limit: usize) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(limit).collect()
}

/// Returns a code block whose fence is longer than any in the text.
fn fenced(language: &str, text: &str) -> String {
    let longest = text
        .split(|char| char != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{text}\n{fence}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> OpenTool {
        OpenTool {
            id: "toolu_1".to_owned(),
            name: name.to_owned(),
            input: serde_json::json!({"command": "deploy --token s3cret"}),
        }
    }

    fn cut<'a>(what: &'a Tail, cause: &'a Cause, queued: &'a [&'a str]) -> Cut<'a> {
        Cut {
            what,
            cause,
            awaited_permission: false,
            cut_at: Timestamp::parse("2026-11-22T03:12:07Z"),
            back_at: Timestamp::parse("2026-11-22T03:15:17Z").unwrap(),
            last_prompt: Some("deploy it\n```\nnow\n```"),
            queued,
            workspace: None,
            brought_back: &[],
        }
    }

    const FILE: &str = "/mnt/persist/session-state/notes/agent-1.md";

    #[test]
    fn a_tool_of_any_name_leaves_a_note_that_can_be_an_argument() {
        let what = Tail::CutInTool {
            tools: vec![tool("a\0b\x1b[2J\nc")],
        };
        let note = prompt(&cut(&what, &Cause::Restarted, &[]), Path::new("/f")).unwrap();
        assert!(note.contains("Your a b [2J c call"), "{note}");
    }

    #[test]
    fn the_note_names_the_tool_and_never_its_input() {
        let what = Tail::CutInTool {
            tools: vec![tool("Bash")],
        };
        let cause = Cause::Preempted { noticed: true };
        let note = prompt(&cut(&what, &cause, &[]), Path::new(FILE)).unwrap();
        assert_eq!(
            note,
            "[spotkeep] This machine was preempted at 2026-11-22 03:12:07 UTC; you are back after \
             3m 10s. \
             /tmp, servers, containers and shells that were running are gone. \
             Your Bash call was cut off: it may have run in part, in full or not at all, so check \
             its \
             effects before doing it again. My last request still stands: go on with it. \
             Details: /mnt/persist/session-state/notes/agent-1.md"
        );
        assert!(!note.contains("s3cret"));
    }

    #[test]
    fn an_idle_agent_also_gets_a_note_about_a_workspace_that_was_created_again() {
        let cause = Cause::Preempted { noticed: false };
        let mut idle = cut(&Tail::Idle, &cause, &[]);
        assert_eq!(prompt(&idle, Path::new(FILE)), None);
        idle.workspace = Some("Your workspace was missing and was created again.");
        let note = prompt(&idle, Path::new(FILE)).unwrap();
        assert!(note.contains("created again. Details: "), "{note}");
        assert!(details(&idle).contains("created again"));
    }

    #[test]
    fn the_note_is_one_short_paragraph_whatever_was_cut() {
        let many = Tail::CutInTool {
            tools: vec![tool(&"mcp__x\n".repeat(50)), tool("Bash"), tool("Edit")],
        };
        let agents = Tail::AwaitingTasks { count: 2 };
        let question = Tail::WaitingForHuman {
            tool: tool("AskUserQuestion"),
        };
        for what in [&many, &agents, &question, &Tail::CutInStream] {
            for cause in [
                Cause::Preempted { noticed: false },
                Cause::Crashed("signal 9\n".repeat(100)),
                Cause::Restarted,
            ] {
                let note = prompt(&cut(what, &cause, &["a", "b"]), Path::new(FILE)).unwrap();
                assert!(note.starts_with("[spotkeep] "), "{note}");
                assert!(note.len() <= 700 && !note.contains('\n'), "{note}");
                assert!(note.contains("still stands"), "{note}");
            }
        }
    }

    #[test]
    fn an_idle_agent_gets_no_note_unless_a_message_was_lost() {
        let cause = Cause::Preempted { noticed: true };
        for what in [Tail::Empty, Tail::Idle, Tail::InterruptedByUser] {
            assert_eq!(prompt(&cut(&what, &cause, &[]), Path::new(FILE)), None);
        }
        let note = prompt(&cut(&Tail::Idle, &cause, &["more"]), Path::new(FILE)).unwrap();
        assert!(note.contains("never given to you"), "{note}");
        assert!(!note.contains("cut off"), "{note}");
    }

    #[test]
    fn a_tool_that_waited_for_permission_did_not_run() {
        let what = Tail::CutInTool {
            tools: vec![tool("Bash")],
        };
        let cut = Cut {
            awaited_permission: true,
            ..cut(&what, &Cause::Restarted, &[])
        };
        let note = prompt(&cut, Path::new(FILE)).unwrap();
        assert!(note.contains("did not run"), "{note}");
    }

    #[test]
    fn a_nudge_is_recognized_by_its_beginning_and_is_not_a_note() {
        let typed = nudge(ApiStop::Overloaded);
        assert!(typed.starts_with(NUDGE_MARK), "{typed}");
        let prompt = again(ApiStop::Login);
        assert!(prompt.starts_with(OWN_MARK) && !prompt.starts_with(NUDGE_MARK));
    }

    #[test]
    fn the_details_contain_everything() {
        let what = Tail::CutInTool {
            tools: vec![tool("Bash")],
        };
        let cause = Cause::Preempted { noticed: false };
        insta::assert_snapshot!(details(&cut(&what, &cause, &["and this too"])));
    }
}
