//! The start-up dialogs of the fake: those of the real program, in its order and with its defaults.
//!
//! They appear where the configuration does not answer them in advance. Two of the defaults are
//! "No".

use std::fs;
use std::path::Path;
use std::sync::mpsc::Receiver;

use serde_json::Value;

use super::{Arguments, ClaudePaths, Event, show, variable};
use sys::error::{Result, bail};
use sys::signal::Ask;
use sys::user;

/// A dialog that blocks the start.
#[derive(Debug, PartialEq, Eq)]
struct Dialog {
    text: String,
    /// Whether Enter accepts the dialog; if not, it ends the program.
    enter_goes_on: bool,
}

/// Shows each dialog and waits for the user. Returns the exit code if the program ends.
pub(super) fn pass(
    arguments: &Arguments,
    place: &ClaudePaths,
    events: &Receiver<Event>,
) -> Result<Option<u8>> {
    if arguments.bypass && user::id() == 0 && variable("IS_SANDBOX").is_none() {
        bail!("--dangerously-skip-permissions cannot be used with root/sudo privileges");
    }
    for dialog in dialogs(arguments, place) {
        show(&dialog.text);
        let code = wait(&dialog, events);
        if code.is_some() {
            return Ok(code);
        }
    }
    Ok(None)
}

fn wait(dialog: &Dialog, events: &Receiver<Event>) -> Option<u8> {
    match events.recv() {
        Ok(Event::Line(_)) if dialog.enter_goes_on => None,
        Ok(Event::Line(_)) => Some(1),
        Ok(Event::Signal(Ask::Terminate)) => Some(143),
        Ok(Event::Signal(Ask::Interrupt)) => Some(0),
        // The input is closed.
        Err(_) => Some(1),
    }
}

fn dialogs(arguments: &Arguments, place: &ClaudePaths) -> Vec<Dialog> {
    let mut due = Vec::new();
    let mut ask = |text: &str, enter_goes_on| {
        due.push(Dialog {
            text: text.to_owned(),
            enter_goes_on,
        });
    };
    if let Some(text) = variable("FAKE_CLAUDE_DIALOG") {
        ask(&text, true);
    }
    let Ok(config) = read(&place.config_file) else {
        ask(
            "Configuration error: invalid JSON\n> 1. Exit  2. Reset with defaults",
            false,
        );
        return due;
    };
    if config["hasCompletedOnboarding"] != true {
        ask("Unable to connect to Anthropic services", false);
    }
    if !trusted(&config, &place.cwd) {
        let cwd = place.cwd.display();
        ask(
            &format!("Accessing workspace: {cwd}\nDo you trust this folder?\n> 1. Yes  2. No"),
            true,
        );
    }
    if variable("ANTHROPIC_API_KEY").is_some_and(|key| !approved(&config, &key)) {
        ask(
            "Detected a custom API key\n  1. Yes\n> 2. No (recommended)",
            false,
        );
    }
    let settings = read(&place.config_dir.join("settings.json")).unwrap_or_default();
    let accepted = settings["skipDangerousModePermissionPrompt"] == true
        || config["bypassPermissionsModeAccepted"] == true;
    if arguments.bypass && !accepted {
        ask(
            "WARNING: Bypass Permissions mode\n> 1. No, exit  2. Yes, I accept",
            false,
        );
    }
    due
}

/// Reads a JSON file; null if it is missing, an error if it is not JSON.
fn read(path: &Path) -> Result<Value, ()> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| ()),
        Err(_) => Ok(Value::Null),
    }
}

/// Whether the directory, or a parent of it, is trusted.
fn trusted(config: &Value, cwd: &Path) -> bool {
    cwd.ancestors().any(|dir| {
        let dir = dir.to_string_lossy();
        config["projects"][dir.as_ref()]["hasTrustDialogAccepted"] == true
    })
}

/// Whether a key is approved, by its last twenty characters.
fn approved(config: &Value, key: &str) -> bool {
    let tail = key.get(key.len().saturating_sub(20)..).unwrap_or(key);
    config["customApiKeyResponses"]["approved"]
        .as_array()
        .is_some_and(|keys| keys.iter().any(|known| known == tail))
}
