//! Snapshots of the whole output of each command, for one fleet from its first minute to its end.
//!
//! What differs from run to run is replaced. `INSTA_UPDATE=always cargo nextest run outputs`
//! rewrites the snapshots; review the diff.

use std::fs;

use crate::support::Lab;

/// Replaces a word that differs from run to run.
fn steady(word: &str) -> String {
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = |sign: char| bare.split(sign).collect::<Vec<_>>();
    let name = if bare.len() == 36
        && parts('-').len() == 5
        && parts('-').iter().all(|part| is_hex(part))
    {
        "<uuid>"
    } else if bare.len() == 23 && bare.as_bytes()[8] == b'T' && bare.as_bytes()[18] == b'-' {
        "<checkpoint>"
    } else if matches!(bare.len(), 7 | 8 | 40 | 64)
        && is_hex(bare)
        && bare.bytes().any(|byte| byte.is_ascii_digit())
    {
        "<hash>"
    } else if parts(':').len() == 3
        && parts(':')
            .iter()
            .all(|part| part.len() == 2 && is_digits(part))
    {
        "<time>"
    } else if parts('-').len() == 3 && parts('-').iter().all(|part| is_digits(part)) {
        "<date>"
    } else {
        return word.to_owned();
    };
    word.replacen(bare, name, 1)
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}

fn scrubbed(lab: &Lab, text: &str) -> String {
    let text = text
        .replace(lab.data_dir().to_str().unwrap(), "<data-dir>")
        .replace(lab.dir.to_str().unwrap(), "<lab>")
        .replace(&lab.model.url(), "<model>")
        .replace(&format!(" {}\n", host()), " <host>\n");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Replaces durations and sizes in a line, and the width of its columns.
fn line(line: &str) -> String {
    let is_number = |text: &str| {
        let text = text.trim_start_matches('(');
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    let is_unit = |text: &str| {
        let unit = text.trim_matches(|c: char| !c.is_ascii_alphabetic());
        matches!(unit, "ms" | "s" | "KiB" | "MiB" | "B" | "files")
    };
    let is_span = |text: &str| {
        text.strip_suffix(['d', 'h', 'm', 's'])
            .is_some_and(is_number)
    };
    let mut words = line.split_whitespace().peekable();
    let mut out: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        let last = out.last().map_or("", String::as_str);
        if last.ends_with("pid") {
            out.push(format!(
                "<pid>{}",
                word.trim_start_matches(|c: char| c.is_ascii_digit())
            ));
        } else if is_number(word) && words.peek().is_some_and(|next| is_unit(next)) {
            let unit = words.next().unwrap_or_default();
            let open = if word.starts_with('(') { "(" } else { "" };
            let rest = unit.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            out.push(format!("{open}<n>{rest}"));
        } else if !is_span(word) {
            out.push(steady(word));
        } else if last != "<n>" {
            out.push("<n>".into());
        }
    }
    // The eighth word of a row of `status` is the size of the workspace, which is measured later.
    let is_row =
        ["●", "◐", "○", "◌", "◍", "✕", "–"].contains(&line.split(' ').next().unwrap_or(""));
    if let Some(size) = out.get_mut(7).filter(|word| is_row && *word == "<n>") {
        *size = "-".into();
    }
    out.join(" ")
}

/// A terminal session: each command line and its output.
struct Session<'l> {
    lab: &'l Lab,
    text: String,
}

impl Session<'_> {
    fn type_in(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let mut said = self.lab.run(&words);
        if line == "checkpoint ls a" {
            // An agent is idle for a moment at its start; whether the keeper sees that depends on
            // timing.
            let newest: Vec<_> = said.out.lines().take(2).collect();
            said.out = newest.join("\n") + "\n";
        }
        self.text += &format!(
            "$ spotkeep {line}\n{}\n",
            scrubbed(self.lab, &(said.out + &said.err))
        );
        if said.code != 0 {
            self.text += &format!("[exit {}]\n", said.code);
        }
        self.text.push('\n');
    }
}

#[test]
fn the_output_for_a_fleet_from_its_first_minute_to_its_end() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "", "env_file = \"missing.env\"");
    let mut session = Session {
        lab: &lab,
        text: String::new(),
    };
    session.type_in("up --dry-run");
    session.type_in("events");
    session.type_in("backup ls");
    session.type_in("notice");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("a has a checkpoint, and its changes are counted", || {
        let a = lab.agent("a");
        (a["last_checkpoint"].is_string() && a["dirty"] == 4).then_some(())
    });
    lab.wait_state("b", "failed");
    lab.run(&["stop", "b"]);
    for line in [
        "status",
        "ls",
        "checkpoint ls a",
        "checkpoint now",
        "checkpoint diff a --stat",
        "checkpoint rollback a --dry-run",
        "start c",
        "start a --dry-run",
        "restart a --dry-run",
        "stop a --dry-run",
        "send a hello --dry-run",
        "rm a --dry-run",
        "down --dry-run",
        "restore --dry-run",
        "save",
        "save --final",
        "up",
        "status",
    ] {
        session.type_in(line);
    }
    keeper.let_go();
    session.type_in("restore --dry-run");
    fs::write(lab.config(), "[agents.a]\nwokspace = \"x\"\n").unwrap();
    session.type_in("up");
    insta::assert_snapshot!("a_fleet", session.text);
}

#[test]
fn the_output_for_backups() {
    if !crate::backup::has_restic("the_output_for_backups") {
        return;
    }
    let lab = Lab::new();
    lab.declare("a", "", "");
    let mut session = Session {
        lab: &lab,
        text: String::new(),
    };
    for line in [
        "backup now --dry-run",
        "backup now",
        "backup now",
        "backup ls",
        "backup check",
        "backup key",
        "backup restore latest workspaces/a/tracked.txt --dry-run",
        "backup restore latest workspaces/nothing",
        "backup restore 00000000",
        "backup recover --dry-run",
        "backup approve --dry-run",
    ] {
        session.type_in(line);
    }
    insta::assert_snapshot!("backups", session.text);
}
