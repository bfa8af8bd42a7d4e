//! A terminal of the test's own: a pane of a tmux server that nothing else uses.

use crate::support::{Lab, said};

/// The pane. Its server ends with the lab.
pub struct Pane<'a> {
    lab: &'a Lab,
}

impl<'a> Pane<'a> {
    /// Runs a line of shell in a terminal of this size; then it stays, to be looked at.
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

    /// What it shows.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Whether a program draws on the whole of it.
    pub fn is_taken(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"])
            .trim()
            == "1"
    }

    /// Presses keys, by the names that tmux has for them.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until it shows all of these; returns the screen.
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
