//! Protocol of the control socket: one line of JSON as the request, one as the reply.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use state::{AgentName, Desired, Fleet};
use sys::error::{Error, ErrorKind, Hint as _, Result, anyhow, hint_of, kind_of};

/// A request to the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Return the fleet's status.
    Status,
    /// Return the metrics for Prometheus.
    Metrics,
    /// Start or stop agents.
    Want {
        /// The agents.
        names: Vec<AgentName>,
        /// The desired state.
        // The former name, which a keeper of an older version reads.
        #[serde(rename = "wanted", alias = "desired")]
        desired: Desired,
    },
    /// Restart agents.
    Restart {
        /// The agents.
        names: Vec<AgentName>,
        /// Whether to wait for the next idle moment of each agent.
        when_idle: bool,
        /// Whether to restart one of them before the others.
        #[serde(default)]
        canary: bool,
    },
    /// Put the fleet up or down.
    Fleet {
        /// The desired state.
        // The former name, which a keeper of an older version reads.
        #[serde(rename = "wanted", alias = "desired")]
        desired: Fleet,
    },
    /// Read `spotkeep.toml` again.
    Reload {
        /// The running agents that are not declared any more and may end. No other agent may end.
        #[serde(default)]
        ends: Vec<AgentName>,
    },
    /// Type a text into an agent.
    Send {
        /// The agent.
        name: AgentName,
        /// The text.
        text: String,
        /// Whether to type only while the agent is idle.
        #[serde(default)]
        when_idle: bool,
    },
    /// Save now.
    Save {
        /// Whether this is the end of this boot.
        #[serde(rename = "final")]
        is_final: bool,
        /// Whether the request comes from the systemd unit that runs at shutdown.
        unit: bool,
    },
    /// Report that this boot goes on after its notice.
    Survived,
    /// Report that the command line has rolled back a workspace.
    RolledBack {
        /// The agent.
        name: AgentName,
        /// The checkpoint that the workspace was rolled back to.
        to: String,
        /// The checkpoint of the state before.
        undo: Option<String>,
    },
}

/// Refuses a change of the file that would end these agents without the user's agreement.
///
/// # Errors
/// Always.
pub fn refuse_to_end(names: &[&str]) -> Result<()> {
    let names = names.join(", ");
    Err(anyhow!("not declared any more, and running: {names}"))
        .hint("to end them: spotkeep up --yes; to keep them: declare them in spotkeep.toml")
        .kind(ErrorKind::NotAsDeclared)
}

/// The keeper's reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The result, if the request succeeded.
    #[serde(default)]
    pub data: Value,
    /// The error, if it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// The hint of the error.
    #[serde(default)]
    pub hint: Option<String>,
    /// The exit code of the error.
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
    /// Returns the data, or the keeper's error with its hint and exit code.
    ///
    /// # Errors
    /// The keeper reported an error.
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
