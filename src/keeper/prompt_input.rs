//! Prompt input: types a text into an agent's input box and submits it by one Enter.
//!
//! A text is never typed into a question. Whether Claude Code took the text is read from the
//! screen. Its session file does not tell: a short turn changes nothing in it (measured on 2.1.197
//! and 2.1.330), nor does one of Claude Code's own commands.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::tmux::Tmux;
use claude::input_box::{InputBox, Next, TypedTextCheck, pasteable};
use claude::screen;
use claude::session_file::{self, Status};
use state::AgentName;
use sys::error::{ErrorKind, Hint as _, Result, anyhow};
use sys::process::ProcessId;

/// How often the screen is read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long the keeper waits for an empty input box: a capture may show a screen that is half
/// drawn.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// How long a text may take to appear in the input box. On a busy machine the slowest of 480 took
/// 2.3 s.
const SHOW_LIMIT: Duration = Duration::from_secs(10);

/// How long Claude Code may take to accept Enter; the slowest took 2.1 s.
const TAKE_LIMIT: Duration = Duration::from_secs(10);

/// How many captures in a row have to be without the text: one may show a screen that is half
/// drawn.
const GONE_CAPTURES: u32 = 3;

/// Types into one agent's terminal.
pub(super) struct Typist<'a> {
    pub(super) tmux: &'a Tmux,
    pub(super) name: &'a AgentName,
    pub(super) process: ProcessId,
    /// Claude's configuration directory.
    pub(super) config: &'a Path,
}

impl Typist<'_> {
    /// Types a text and submits it by one Enter.
    ///
    /// # Errors
    /// Nothing was typed: a question or something else is shown instead of the input box, or the
    /// box has unsubmitted input. Or the text was typed and not submitted: it did not appear in the
    /// box alone, or Claude Code did not accept the Enter.
    pub(super) fn submit(&self, text: &str) -> Result<()> {
        let text = pasteable(text);
        if text.is_empty() {
            return Err(anyhow!("there is nothing to send")).kind(ErrorKind::Usage);
        }
        self.wait_until_ready()?;
        let landing = TypedTextCheck::begin(Instant::now());
        self.tmux.paste(self.name, &text)?;
        self.wait_until_it_stands(&text, landing)?;
        self.tmux.press_enter(self.name)?;
        self.wait_until_gone(&text)
    }

    /// Types a nudge. It leaves the question at a usage limit, whose first answer is to wait, by
    /// Escape.
    ///
    /// # Errors
    /// The agent is in a turn; otherwise as for [`Typist::submit`].
    pub(super) fn nudge(&self, text: &str, may_go_on: impl Fn() -> bool) -> Result<()> {
        let shows_question = || -> Result<bool> {
            let shown = self.tmux.screen(self.name)?;
            Ok(screen::shows_limit_question(&shown))
        };
        if shows_question()? {
            self.tmux.press_escape(self.name)?;
            wait(READY_LIMIT, || Ok(!shows_question()?))?;
        }
        let is_idle = || Ok(may_go_on() && self.status() == Some(Status::Idle));
        if !wait(READY_LIMIT, is_idle)? {
            return Err(anyhow!("{} is not at its prompt", self.name));
        }
        self.submit(text)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let mut hindrance = None;
        wait(READY_LIMIT, || {
            hindrance = self.hindrance()?;
            Ok(hindrance.is_none())
        })?;
        match hindrance {
            None => Ok(()),
            Some(why) => Err(anyhow!("{} {why}", self.name))
                .hint(format!("spotkeep attach {}", self.name))
                .kind(ErrorKind::NotAsDeclared),
        }
    }

    /// Returns why nothing may be typed now, as a phrase that follows the agent's name.
    fn hindrance(&self) -> Result<Option<String>> {
        if self.is_asking() {
            return Ok(Some(
                "waits for a human; a text could answer its question".into(),
            ));
        }
        Ok(match self.input()? {
            None => {
                let title = screen::title(&self.tmux.screen(self.name)?);
                Some(format!("shows something else than its input box: {title}"))
            }
            Some(input) if input.is_of_session_list() => {
                Some("shows the list of sessions; a text would begin another one".into())
            }
            Some(input) if !input.is_empty() => {
                Some("has unsubmitted input, which would be submitted with the text".into())
            }
            Some(_) => None,
        })
    }

    fn wait_until_it_stands(&self, text: &str, mut landing: TypedTextCheck) -> Result<()> {
        let until = Instant::now() + SHOW_LIMIT;
        loop {
            let began = Instant::now();
            let stands = self.input()?.is_some_and(|input| input.holds(text));
            match landing.observe(began, Instant::now(), stands) {
                Next::Press => return Ok(()),
                Next::Renew => self.tmux.paste(self.name, " ")?,
                Next::Wait => {}
            }
            if Instant::now() >= until {
                let why = match self.hindrance()? {
                    Some(why) => format!("{} {why}", self.name),
                    None => "its input box is empty".into(),
                };
                return self.unsubmitted(&format!("it did not appear in the input box: {why}"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn wait_until_gone(&self, text: &str) -> Result<()> {
        let mut gone = 0;
        let is_taken = wait(TAKE_LIMIT, || {
            // Text that is left on the screen of a Claude that has ended is not in an input box.
            let input = self.input()?.filter(|input| input.may_hold(text));
            let stands = input.is_some() && self.tmux.pane_is_dead(self.name)? == Some(false);
            gone = if stands { 0 } else { gone + 1 };
            Ok(gone >= GONE_CAPTURES)
        })?;
        match is_taken {
            true => Ok(()),
            false => self.unsubmitted("Claude did not take the Enter that was pressed"),
        }
    }

    fn input(&self) -> Result<Option<InputBox>> {
        Ok(InputBox::find(&self.tmux.coloured_screen(self.name)?))
    }

    fn unsubmitted(&self, why: &str) -> Result<()> {
        let name = self.name;
        Err(anyhow!(
            "the text typed into {name} is not submitted: {why}"
        ))
        .hint(format!("spotkeep attach {name}"))
        .kind(ErrorKind::NotAsDeclared)
    }

    fn is_asking(&self) -> bool {
        matches!(self.status(), Some(Status::Waiting { .. }))
    }

    fn status(&self) -> Option<Status> {
        let file = session_file::read(self.config, self.process.pid)?;
        file.status.filter(|_| file.process == self.process)
    }
}

/// Polls until `is_true` holds, for `limit` at most; returns whether it held. tmux does not report
/// changes of a pane.
fn wait(limit: Duration, mut is_true: impl FnMut() -> Result<bool>) -> Result<bool> {
    let until = Instant::now() + limit;
    loop {
        if is_true()? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
