//! Tests of the dependencies between the crates, and between the modules of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate and the others that it may use, as in ARCHITECTURE.md.
const ARROWS: [(&str, &[&str]); 9] = [
    ("sys", &[]),
    ("state", &["sys"]),
    ("claude", &["sys"]),
    ("checkpoint", &["sys", "state"]),
    ("supervisor", &["sys", "state", "claude"]),
    ("gcp", &["sys", "state"]),
    ("drill", &["sys", "state"]),
    ("testing", &[]),
    (
        "spotkeep",
        &[
            "sys",
            "state",
            "claude",
            "checkpoint",
            "supervisor",
            "gcp",
            "drill",
        ],
    ),
];

#[test]
fn each_crate_uses_only_those_that_the_architecture_allows() {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{cargo:?}");
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let library = |package: &Value| {
        let targets = package["targets"].as_array().unwrap();
        let is_library = |target: &&Value| target["kind"][0] == "lib";
        let name = &targets.iter().find(is_library).unwrap()["name"];
        name.as_str().unwrap().to_owned()
    };
    let libraries: BTreeMap<_, _> = packages
        .iter()
        .map(|package| (package["name"].as_str().unwrap(), library(package)))
        .collect();
    let mut found = BTreeMap::new();
    for package in packages {
        let uses = package["dependencies"].as_array().unwrap().iter();
        let uses: BTreeSet<_> = uses
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| libraries.get(dependency["name"].as_str().unwrap()))
            .cloned()
            .collect();
        found.insert(library(package), uses);
    }
    let allowed: BTreeMap<_, BTreeSet<_>> = ARROWS
        .iter()
        .map(|(one, uses)| {
            (
                (*one).to_owned(),
                uses.iter().map(|&one| one.into()).collect(),
            )
        })
        .collect();
    assert_eq!(found, allowed);
}

/// The modules of the program, each before those that it may use.
const MODULES: [&str; 16] = [
    "cli", "top", "doctor", "setup", "adopt", "keeper", "save", "resume", "backup", "report",
    "metadata", "notify", "agent", "tmux", "storage", "systemd",
];

#[test]
fn each_module_of_the_program_uses_only_those_below_it() {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let mut wrong = Vec::new();
    for (path, module) in &files {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let place = |module: &str| MODULES.iter().position(|one| *one == module);
        let own = place(module).unwrap_or_else(|| panic!("module {module} is not listed"));
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for used in lines.flat_map(|line| line.split("crate::").skip(1)) {
            let used: String = used
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if place(&used).is_some_and(|other| other < own) {
                wrong.push(format!("{}: {used}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "dependencies that are not allowed: {wrong:#?}"
    );
}

/// Collects all source files but tests, each with its module.
fn collect(src: &Path, files: &mut Vec<(PathBuf, String)>) {
    let mut dirs = vec![src.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let below = path.strip_prefix(src).unwrap();
                let module = below.components().next().unwrap().as_os_str();
                let module = module.to_str().unwrap().trim_end_matches(".rs").to_owned();
                if module != "lib" && module != "main" {
                    files.push((path, module));
                }
            }
        }
    }
}
