//! The `spotkeep.toml` of a sandbox, with settings that lead to the fakes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Sandbox;
use sys::error::{Context as _, Result};

/// A dummy key. No program of a drill can reach a server that would accept a key.
const KEY: &str = "drill-key-that-opens-nothing";
impl Sandbox {
    /// Runs `init`, and writes settings that lead to the fakes.
    ///
    /// # Errors
    /// `init` failed.
    pub fn declare(&self, metadata: &str, model: &str, claude: Option<&Path>) -> Result<()> {
        self.verb(1, metadata, &["init", "--unattended"])?;
        let claude = match claude {
            Some(path) => path.to_path_buf(),
            None => self.fake()?,
        };
        let path = self.data_dir().join("spotkeep.toml");
        let text = fs::read_to_string(&path).context("init wrote no spotkeep.toml")?;
        let run = self.dir.join("run");
        let tmp = self.dir.join("tmp");
        let env = [
            ("ANTHROPIC_BASE_URL", model),
            ("ANTHROPIC_API_KEY", KEY),
            ("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1"),
            ("CLAUDE_CODE_TMPDIR", &tmp.to_string_lossy()),
            ("DISABLE_AUTOUPDATER", "1"),
            ("DISABLE_TELEMETRY", "1"),
            ("IS_SANDBOX", "1"),
            ("SPOTKEEP_RUNTIME_DIR", &run.to_string_lossy()),
        ]
        .map(|(key, value)| format!("{key} = {}", quote(value)));
        let text = set(&text, "cloud", "provider", &quote("gcp"));
        let text = point_at(&text, metadata);
        let text = set(
            &text,
            "defaults",
            "claude",
            &quote(&claude.to_string_lossy()),
        );
        let text = set(
            &text,
            "defaults",
            "env",
            &format!("{{ {} }}", env.join(", ")),
        );
        self.write(&path, &text)?;
        // The key is approved, as by a user; the keeper merges everything else.
        let tail = KEY.get(KEY.len().saturating_sub(20)..).unwrap_or(KEY);
        let known = serde_json::json!({"customApiKeyResponses": {"approved": [tail]}});
        let file = self.data_dir().join(".claude/.claude.json");
        self.write(&file, &known.to_string())
    }

    /// Writes a script that runs the fake Claude; returns its path.
    ///
    /// # Errors
    /// The disk is full.
    pub fn fake(&self) -> Result<PathBuf> {
        let path = self.dir.join("bin/claude");
        let exe = self.exe.to_string_lossy().replace('\'', r"'\''");
        fs::write(
            &path,
            format!("#!/bin/sh\nexec '{exe}' fake-claude \"$@\"\n"),
        )?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

/// Quotes a TOML string. JSON's escapes are valid in TOML.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the config with another metadata server.
#[must_use]
pub fn point_at(text: &str, metadata: &str) -> String {
    set(text, "cloud", "metadata", &quote(metadata))
}

/// Sets a key of a table in TOML text, and removes an earlier value.
fn set(text: &str, table: &str, key: &str, value: &str) -> String {
    let header = format!("[{table}]");
    let mut lines = Vec::new();
    let mut inside = false;
    let mut done = false;
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            inside = line.trim_start().starts_with(&header);
        }
        let name = line.split('=').next().unwrap_or_default().trim();
        if inside && name == key {
            continue;
        }
        lines.push(line.to_owned());
        if inside && !done {
            lines.push(format!("{key} = {value}"));
            done = true;
        }
    }
    if !done {
        lines.push(header);
        lines.push(format!("{key} = {value}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_in_its_table_only() {
        let text = "[cloud]  # x\nprovider = \"auto\"\n# metadata = \"\"\n[defaults]\nargs = []\n";
        let text = set(text, "cloud", "provider", "\"gcp\"");
        let text = set(&text, "defaults", "claude", "\"/c\"");
        let text = set(&text, "machine", "home", "[]");
        let expected = "[cloud]  # x\nprovider = \"gcp\"\n# metadata = \"\"\n[defaults]\n\
                        claude = \"/c\"\nargs = []\n[machine]\nhome = []\n";
        assert_eq!(text, expected);
    }
}
