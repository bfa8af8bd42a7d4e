//! The crates of the workspace, and which of them may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What ARCHITECTURE.md says: each crate, and the others that it may use.
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
