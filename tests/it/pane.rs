//! A terminal for tests: a pane of a tmux server that only the test uses.

use crate::support::{Lab, said};

/// A tmux pane. Its server ends with the lab.
pub struct Pane<'a> {
    lab: &'a Lab,
}

impl<'a> Pane<'a> {
    /// Runs a shell script in a terminal of this size, which stays open afterwards.
    pub fn run(lab: &'a Lab, columns: u32, lines: u32, script: &str) -> Self {
        let pane = Self { lab };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let script = format!("{script}; exec tail -f /dev/null");
        pane.tmux(&[
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &lines,
            "sh",
            "-c",
            &script,
        ]);
        pane
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut tmux = self.lab.program("tmux");
        tmux.arg("-S")
            .arg(self.lab.dir.join("pane.sock"))
            .args(["-f", "/dev/null"])
            .args(args);
        said(&mut tmux).ok().out
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Whether a program uses the alternate screen.
    pub fn is_taken(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"])
            .trim()
            == "1"
    }

    /// Presses keys, by tmux's names for them.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen shows all of `expected`; returns the screen.
    pub fn wait(&self, expected: &[&str]) -> String {
        let mut last = String::new();
        self.lab
            .until(&format!("the terminal shows {expected:?}"), || {
                last = self.screen();
                if std::env::var_os("SPOTKEEP_SHOW_PANES").is_some() {
                    eprintln!("{last}");
                }
                expected
                    .iter()
                    .all(|text| last.contains(text))
                    .then_some(())
            });
        last
    }
}
