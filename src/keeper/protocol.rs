//! What the command line and the keeper say to each other: one JSON line there, one back.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use state::{AgentName, Desired, Fleet};
use sys::error::{Error, ErrorKind, Hint as _, Result, anyhow, hint_of, kind_of};

/// What the keeper can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// How everything stands.
    Status,
    /// The same, for Prometheus.
    Metrics,
    /// Agents shall run, or stop.
    Want {
        /// Which.
        names: Vec<AgentName>,
        /// What.
        desired: Desired,
    },
    /// Agents shall be started anew.
    Restart {
        /// Which.
        names: Vec<AgentName>,
        /// Each at its next idle moment.
        when_idle: bool,
        /// And one of them before the others.
        #[serde(default)]
        canary: bool,
    },
    /// The fleet shall be up, or down.
    Fleet {
        /// Which of the two.
        desired: Fleet,
    },
    /// The file has changed.
    Reload {
        /// Agents that run, are not declared any more, and may end. Others may not.
        #[serde(default)]
        ends: Vec<AgentName>,
    },
    /// Type a text into an agent.
    Send {
        /// Which.
        name: AgentName,
        /// The text.
        text: String,
        /// Only while it rests.
        #[serde(default)]
        when_idle: bool,
    },
    /// Save now.
    Save {
        /// Whether this is the end of this boot.
        #[serde(rename = "final")]
        is_final: bool,
        /// Whether the machine's shutdown asks.
        unit: bool,
    },
    /// This boot goes on after its notice.
    Survived,
    /// A workspace was rolled back, by the command line.
    RolledBack {
        /// Whose.
        name: AgentName,
        /// To this checkpoint.
        to: String,
        /// The one made before.
        undo: Option<String>,
    },
}

/// Refuses a change of the file that would end these agents, which nobody has agreed to.
///
/// # Errors
/// Always.
pub fn refuse_to_end(names: &[&str]) -> Result<()> {
    let names = names.join(", ");
    Err(anyhow!("not declared any more, and running: {names}"))
        .hint("to end them: spotkeep up --yes; to keep them: declare them in spotkeep.toml")
        .kind(ErrorKind::NotAsDeclared)
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What was asked for, where it worked.
    #[serde(default)]
    pub data: Value,
    /// What went wrong, where it did not.
    #[serde(default)]
    pub error: Option<String>,
    /// What to do then.
    #[serde(default)]
    pub hint: Option<String>,
    /// The exit code then.
    #[serde(default)]
    pub code: u8,
}

impl From<Result<Value>> for Reply {
    fn from(result: Result<Value>) -> Self {
        match result {
            Ok(data) => Self {
                data,
                error: None,
                hint: None,
                code: 0,
            },
            Err(error) => Self {
                data: Value::Null,
                error: Some(format!("{error:#}")),
                hint: hint_of(&error).map(str::to_owned),
                code: kind_of(&error) as u8,
            },
        }
    }
}

impl Reply {
    /// The data, or the keeper's error as if it had happened here.
    ///
    /// # Errors
    /// The keeper said so.
    pub fn into_result(self) -> Result<Value> {
        let Some(message) = self.error else {
            return Ok(self.data);
        };
        let kind = match self.code {
            2 => ErrorKind::Usage,
            3 => ErrorKind::NotAsDeclared,
            _ => ErrorKind::Failed,
        };
        let failed: Result<Value, Error> = Err(anyhow!(message));
        let failed = failed.kind(kind);
        match self.hint {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_the_socket_with_its_hint_and_its_code() {
        let failed: Result<Value> = Err(anyhow!("no such agent"));
        let reply = Reply::from(failed.hint("spotkeep ls").kind(ErrorKind::Usage));
        let text = serde_json::to_string(&reply).unwrap();
        let error = serde_json::from_str::<Reply>(&text)
            .unwrap()
            .into_result()
            .unwrap_err();
        assert_eq!(error.to_string(), "no such agent");
        assert_eq!(hint_of(&error), Some("spotkeep ls"));
        assert_eq!(kind_of(&error), ErrorKind::Usage);
    }
}
