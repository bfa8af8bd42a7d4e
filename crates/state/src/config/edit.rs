//! Edits `spotkeep.toml`, and leaves every other byte of it unchanged.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, RawString, Table, value};

use super::Config;
use crate::AgentName;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files;

/// Returns the file of a new data directory, with each setting explained. `unattended` lets agents
/// work without asking for permission.
#[must_use]
pub fn template(unattended: bool) -> String {
    let args = if unattended {
        "# Agents run every command without asking: use a machine without secrets.\n\
         args = [\"--dangerously-skip-permissions\"]"
    } else {
        "args = []                             # for Claude; \
         --dangerously-skip-permissions: agents never ask"
    };
    format!(
        "# spotkeep.toml: the agents of this data directory. `spotkeep up` applies it.\n\
         \n\
         [cloud]\n\
         provider = \"auto\"                     # auto | gcp | none\n\
         # notice = \"120s\"                     # what the VM was created with\n\
         \n\
         # [checkpoint]                          # uncommitted work, kept in hidden commits\n\
         # largest_file = \"100MiB\"             # larger files are skipped and listed\n\
         # push = \"git@example.org:me/safe.git\" # pushed there as well\n\
         # keep = {{ all = \"1h\", hourly = \"24h\", daily = \"336h\" }}\n\
         \n\
         # [machine]                           # for `sudo spotkeep setup`, on each new VM\n\
         # home = [\".gitconfig\", \".ssh\"]      # kept in home/, linked from the user's home\n\
         # on_new_machine = \"provision.sh\"     # run once per boot disk, as the user\n\
         \n\
         [defaults]                            # for every agent\n\
         {args}\n\
         restart = \"on-failure\"                # always | on-failure | never\n\
         # checkpoint_every = \"60s\"            # uncommitted work, while an agent works\n\
         # claude = \"/opt/claude/claude\"       # found automatically where this is not set\n\
         # env = {{ ANTHROPIC_BASE_URL = \"http://127.0.0.1:8080\" }}\n\
         # env_file = \"secrets.env\"            # mode 0600; never shown\n\
         \n\
         # [backup]                            # into backups/, by restic\n\
         # every = \"15m\"                       # while files change; \"never\": only by hand\n\
         # copy_to = \"gs:my-bucket:/fleet\"     # a second repository, off the machine\n\
         # keep = {{ last = 4, hourly = 24, daily = 14, weekly = 9 }}\n\
         # exclude = [\"*.iso\"]                # beside target/, node_modules/ and the like\n\
         # keep_ignored = [\".env\"]            # saved although left out by default\n\
         # secrets = true                      # logins, keys and environment files too\n\
         \n\
         # [agents.agent-1-issue-123]\n\
         # workspace = \"workspaces/agent-1\"    # relative to this directory\n\
         # prompt = \"Fix issue 123.\"           # its first prompt\n"
    )
}

/// Declares an agent at the end of the file, after everything else.
///
/// # Errors
/// It is declared already, or the result would not be valid; nothing is written then.
pub fn add_agent(
    path: &Path,
    name: &AgentName,
    workspace: &Path,
    prompt: Option<&str>,
    args: &[String],
) -> Result<()> {
    edit(path, |text, document| {
        if let Some(agents) = document.get("agents") {
            let agents = agents.as_table().context("[agents] is not a table")?;
            if agents.contains_key(name) {
                return Err(anyhow!("the agent {name} is declared already"))
                    .hint(format!("spotkeep rm {name}"))
                    .kind(ErrorKind::Usage);
            }
        }
        let mut table = Table::new();
        table.insert("workspace", value(workspace.to_string_lossy().into_owned()));
        if let Some(prompt) = prompt {
            table.insert("prompt", value(prompt));
        }
        if !args.is_empty() {
            table.insert("args", value(args.iter().collect::<Array>()));
        }
        let mut agents = Table::new();
        agents.set_implicit(true);
        agents.insert(name, Item::Table(table));
        let mut addition = DocumentMut::new();
        addition.insert("agents", Item::Table(agents));
        // As text: otherwise a comment at the end of a table would come after this table, and be a
        // setting of this agent alone once it is uncommented.
        let mut text = text.to_owned();
        if !text.is_empty() {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        Ok(text + addition.to_string().trim_start())
    })
}

/// Removes an agent from the file. Nothing else is changed, and comments before it stay.
///
/// # Errors
/// It is not declared, or the file cannot be written.
pub fn remove_agent(path: &Path, name: &AgentName) -> Result<()> {
    edit(path, |text, document| {
        let removed = document
            .get_mut("agents")
            .and_then(Item::as_table_mut)
            .and_then(|agents| agents.remove(name));
        let removed = removed
            .with_context(|| format!("the agent {name} is not declared in {}", path.display()))
            .hint("spotkeep ls")
            .kind(ErrorKind::Usage)?;
        if let Some(table) = removed.as_table() {
            let before = table.decor().prefix().and_then(RawString::as_str);
            let before = before.unwrap_or_default();
            // The blank line is removed with the agent.
            let kept = match before.strip_suffix('\n') {
                Some(kept) if kept.is_empty() || kept.ends_with('\n') => kept.to_owned(),
                _ => before.to_owned(),
            };
            keep(document, table.position(), &kept);
        }
        Ok(as_before(text, &document.to_string()))
    })
}

/// Returns the remaining lines, each with its former line end: `toml_edit` writes only newlines,
/// and no byte order mark.
fn as_before(before: &str, left: &str) -> String {
    const MARK: char = '\u{feff}';
    let text = |line: &str| line.trim_end_matches(['\r', '\n']).replace('\r', "");
    let mut old = before.split_inclusive('\n');
    let mut result = String::with_capacity(before.len());
    for line in left.split_inclusive('\n') {
        let is_it = |old: &&str| text(old.trim_start_matches(MARK)) == text(line);
        let mut ahead = old.clone();
        match ahead.find(is_it) {
            Some(same) => {
                old = ahead;
                result.push_str(same);
            }
            None => result.push_str(line),
        }
    }
    if before.starts_with(MARK) && !result.starts_with(MARK) {
        result.insert(0, MARK);
    }
    result
}

/// Inserts text that was before a removed table before the item that follows.
fn keep(document: &mut DocumentMut, there: Option<isize>, text: &str) {
    let mut tables = Vec::new();
    collect(document.as_table_mut(), &mut tables);
    let next = tables
        .into_iter()
        .filter(|table| table.position() > there && !table.is_implicit())
        .min_by_key(|table| table.position());
    let whole = |after: Option<&RawString>| {
        text.to_owned() + after.and_then(RawString::as_str).unwrap_or_default()
    };
    match next {
        Some(table) => {
            let whole = whole(table.decor().prefix());
            table.decor_mut().set_prefix(whole);
        }
        None => document.set_trailing(whole(Some(document.trailing()))),
    }
}

/// Collects the tables of the first two levels: no others have their own header here.
fn collect<'t>(document: &'t mut Table, found: &mut Vec<&'t mut Table>) {
    for (_, item) in document.iter_mut() {
        let Item::Table(table) = item else { continue };
        if !table.is_implicit() {
            found.push(table);
            continue;
        }
        for (_, item) in table.iter_mut() {
            if let Item::Table(table) = item {
                found.push(table);
            }
        }
    }
}

fn edit(path: &Path, change: impl FnOnce(&str, &mut DocumentMut) -> Result<String>) -> Result<()> {
    if Config::is_lost(path) {
        return super::lost(path, &super::copy_beside(path));
    }
    let bytes = files::read_optional(path)?.unwrap_or_default();
    let text =
        String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?;
    let mut document: DocumentMut = text
        .parse()
        .with_context(|| format!("{} is not TOML; nothing was changed", path.display()))?;
    let text = change(&text, &mut document)?;
    Config::parse(&text)
        .and_then(|config| config.check_on_disk(path))
        .with_context(|| {
            format!(
                "this would make {} invalid, so nothing was changed",
                path.display()
            )
        })?;
    files::write_atomic(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_good_file_with_and_without_permission() {
        assert!(
            Config::parse(&template(false))
                .unwrap()
                .defaults
                .args
                .is_empty()
        );
        assert_eq!(
            Config::parse(&template(true)).unwrap().defaults.args,
            ["--dangerously-skip-permissions"]
        );
    }

    #[test]
    fn adding_and_removing_an_agent_gives_back_the_file_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spotkeep.toml");
        let before =
            template(true) + "\n[agents.b]   # mine\nworkspace = \"workspaces/b\"\n# the end\n";
        std::fs::write(&path, &before).unwrap();
        let name = AgentName::new("a-1").unwrap();
        add_agent(
            &path,
            &name,
            Path::new("workspaces/a"),
            Some("say \"hi\"\ntwice"),
            &["--model".into()],
        )
        .unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(
            config.agents[&name].prompt.as_deref(),
            Some("say \"hi\"\ntwice")
        );
        assert!(add_agent(&path, &name, Path::new("workspaces/c"), None, &[]).is_err());
        let other = AgentName::new("c").unwrap();
        let error = add_agent(&path, &other, Path::new("workspaces/b"), None, &[]).unwrap_err();
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        remove_agent(&path, &name).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn a_file_with_crlf_keeps_its_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spotkeep.toml");
        let before = "\u{feff}[agents.a]\r\nworkspace = \"w\"\r\n# mine\r\n\
                      [agents.b]\r\nworkspace = \"v\"\n";
        std::fs::write(&path, before).unwrap();
        let [a, c] = ["a", "c"].map(|name| AgentName::new(name).unwrap());
        add_agent(&path, &c, Path::new("c"), None, &[]).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(before));
        remove_agent(&path, &c).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        remove_agent(&path, &a).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "\u{feff}# mine\r\n[agents.b]\r\nworkspace = \"v\"\n"
        );
    }

    #[test]
    fn comments_stay_in_the_table_that_they_belong_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spotkeep.toml");
        std::fs::write(&path, template(true)).unwrap();
        let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
        for name in [&a, &b] {
            add_agent(&path, name, Path::new(name.as_str()), None, &[]).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // As a user uncomments them.
        let edited = text
            .replace("# env_file =", "env_file =")
            .replace("# env =", "env =");
        let config = Config::parse(&edited).unwrap();
        assert_eq!(
            config.defaults.env_file.as_deref(),
            Some(Path::new("secrets.env"))
        );
        assert_eq!(config.agents[&a].env_file, None);
        // Neither is removed with the first agent, and the second one stays as it is.
        remove_agent(&path, &a).unwrap();
        let left = std::fs::read_to_string(&path).unwrap();
        assert_eq!(left, template(true) + "\n[agents.b]\nworkspace = \"b\"\n");
        remove_agent(&path, &b).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), template(true));
    }
}
