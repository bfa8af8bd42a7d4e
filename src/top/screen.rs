//! The terminal: taken, drawn on, left to somebody else for a while, and given back whatever happens.

use std::io::{self, Stdout};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::key::Key;
use super::model::Model;
use super::view::{self, Theme};
use sys::error::{Context as _, Result};

/// The terminal while it is ours. Dropped, it is as it was before; so it is after a panic.
pub struct Screen {
    terminal: Option<Terminal<CrosstermBackend<Stdout>>>,
    look: Theme,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It is none.
    pub fn open(look: Theme) -> Result<Self> {
        let mut screen = Self {
            terminal: None,
            look,
        };
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&mut self) -> Result<()> {
        // It also sees to it that a panic gives the terminal back before it is told.
        self.terminal = Some(ratatui::try_init().context("cannot use the terminal")?);
        Ok(())
    }

    fn leave(&mut self) {
        // The cursor comes back with the end of it.
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }

    /// Leaves the terminal to somebody else while `work` lasts.
    ///
    /// # Errors
    /// The terminal has gone meanwhile.
    pub fn lend<T>(&mut self, work: impl FnOnce() -> T) -> Result<T> {
        self.leave();
        let result = work();
        self.enter()?;
        Ok(result)
    }

    /// Draws what has changed. Returns the height.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn draw(&mut self, model: &Model) -> Result<u16> {
        let look = self.look;
        let Some(terminal) = &mut self.terminal else {
            return Ok(0);
        };
        let drawn = terminal
            .draw(|frame| view::draw(frame.buffer_mut(), model, look))
            .context("cannot write to the terminal")?;
        Ok(drawn.area.height)
    }

    /// The keys that were pressed. A change of size is drawn by the next draw.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn keys(&self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        while event::poll(Duration::ZERO).context("cannot read the terminal")? {
            if let Event::Key(pressed) = event::read().context("cannot read the terminal")?
                && pressed.kind != KeyEventKind::Release
            {
                keys.extend(key(pressed.code, pressed.modifiers));
            }
        }
        Ok(keys)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn key(code: KeyCode, modifiers: KeyModifiers) -> Option<Key> {
    let held = modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Break,
        KeyCode::Char('f') if held => Key::PageDown,
        KeyCode::Char('b') if held => Key::PageUp,
        KeyCode::Char(_) if held => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

/// Whether there is a terminal to draw on and to read from.
#[must_use]
pub fn is_there() -> bool {
    use io::IsTerminal as _;
    io::stdout().is_terminal() && io::stdin().is_terminal()
}
