//! Terminal handling: raw mode, drawing, keys, and restoring the terminal in every case.

use std::io::{self, Stdout};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::key::Key;
use super::model::Model;
use super::view::{self, Theme};
use sys::error::{Context as _, Result};

/// The terminal in raw mode. It is restored on drop, also after a panic.
pub struct Screen {
    terminal: Option<Terminal<CrosstermBackend<Stdout>>>,
    theme: Theme,
}

impl Screen {
    /// Switches the terminal to raw mode.
    ///
    /// # Errors
    /// It is not a terminal.
    pub fn open(theme: Theme) -> Result<Self> {
        let mut screen = Self {
            terminal: None,
            theme,
        };
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&mut self) -> Result<()> {
        // It also restores the terminal at a panic, before the message is printed.
        self.terminal = Some(ratatui::try_init().context("cannot use the terminal")?);
        Ok(())
    }

    fn leave(&mut self) {
        // Dropping the terminal shows the cursor again.
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }

    /// Restores the terminal while `work` runs, for another program.
    ///
    /// # Errors
    /// The terminal was closed meanwhile.
    pub fn lend<T>(&mut self, work: impl FnOnce() -> T) -> Result<T> {
        self.leave();
        let result = work();
        self.enter()?;
        Ok(result)
    }

    /// Draws what has changed. Returns the height.
    ///
    /// # Errors
    /// The terminal was closed.
    pub fn draw(&mut self, model: &Model) -> Result<u16> {
        let theme = self.theme;
        let Some(terminal) = &mut self.terminal else {
            return Ok(0);
        };
        let drawn = terminal
            .draw(|frame| view::draw(frame.buffer_mut(), model, theme))
            .context("cannot write to the terminal")?;
        Ok(drawn.area.height)
    }

    /// Returns the keys that were pressed. A new size takes effect at the next draw.
    ///
    /// # Errors
    /// The terminal was closed.
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

/// Returns whether standard input and output are a terminal.
#[must_use]
pub fn is_there() -> bool {
    use io::IsTerminal as _;
    io::stdout().is_terminal() && io::stdin().is_terminal()
}
