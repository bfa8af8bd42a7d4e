//! The program of an older commit, from before options, variables and keys were renamed.
//!
//! `scripts/old-program` builds it. This file uses the old program's own names, which do not change
//! with those of the program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::boot::{DATA_DIR, Machine};
use crate::keeper::Keeper;
use crate::support::{Lab, SPOTKEEP, said, skip};

/// Where a machine has the old program.
pub const OLD_PROGRAM: &str = "/usr/local/bin/old-spotkeep";
/// The old program's unit that brings lost files back.
pub const OLD_RECOVER_UNIT: &str = "spotkeep-mend.service";

/// The path of the old program; `None`, with the reason printed, where it is not built.
pub fn old_program(test: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/old-program");
    let program = PathBuf::from(said(Command::new(script).arg("--path")).ok().out.trim());
    if !program.is_file() {
        let why = "the old program is not built (scripts/old-program builds it)";
        if std::env::var("SPOTKEEP_WITHOUT_OLD_PROGRAM").is_ok_and(|value| value == "1") {
            eprintln!("skipped: {test}: {why}");
        } else {
            skip(test, why);
        }
        return None;
    }
    Some(program)
}

/// The new name of a key, and the old program's name of it.
const RENAMED: [(&str, &str); 4] = [
    ("data_dir_id", "root_id"),
    ("boot_id", "life"),
    ("desired", "wanted"),
    ("transcripts_safe_ms", "words_safe_ms"),
];

/// A value by its name, or by the name that the old program wrote it under.
pub fn renamed<'v>(value: &'v Value, name: &str) -> &'v Value {
    let old_name = RENAMED.iter().find(|(new, _)| *new == name).unwrap().1;
    match &value[name] {
        Value::Null => &value[old_name],
        found => found,
    }
}

impl Lab {
    /// As [`Lab::new`], but every command runs the old program until [`Lab::upgrade`].
    pub fn of_old_program(program: &Path) -> Self {
        Self::bare().with_old_program(program)
    }

    /// As [`Lab::in_a_cloud`], with the old program as well.
    pub fn of_old_program_in_a_cloud(program: &Path) -> Self {
        Self::bare_in_a_cloud().with_old_program(program)
    }

    fn with_old_program(mut self, program: &Path) -> Self {
        self.old_program = Some(program.to_owned());
        self.run(&["init"]).ok();
        self.configure("");
        self
    }

    /// From now on every command runs the program under test. Running processes continue.
    pub fn upgrade(&mut self) {
        self.old_program = None;
    }

    /// Fails unless this keeper is the program that commands run now.
    pub fn assert_program(&self, keeper: &Keeper) {
        let exe = fs::read_link(format!("/proc/{}/exe", keeper.process.pid)).unwrap();
        let program = self.old_program.as_deref().unwrap_or(SPOTKEEP.as_ref());
        assert_eq!(exe, fs::canonicalize(program).unwrap());
    }

    /// The old program on this data directory. Agents still run the fake Claude of the program
    /// under test.
    pub fn by_old_program(&self, program: &Path) -> Command {
        let mut command = self.program(program.to_str().unwrap());
        command
            .env("SPOTKEEP_LIFE", self.boot_id())
            .arg("--root")
            .arg(self.data_dir());
        command
    }
}

impl Machine<'_> {
    /// Adds the old program to a machine, whose commands then use the option that both programs
    /// read.
    pub fn with_old_program(mut self, program: &Path) -> Self {
        self.data_dir_option = format!("--root {DATA_DIR}");
        self.share(program, OLD_PROGRAM)
    }
}
