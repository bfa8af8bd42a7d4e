//! Tests that checkpoints execute no command that an agent has put into a repository.
//!
//! Each trap is first shown to work with plain git.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use checkpoint::{
    CheckpointOutcome, Layer, difference, list, prune_at, rebuild, repair, rollback, sizes,
};
use state::config::{Keep, Span};
use state::layout::DataDir;
use sys::deadline::Deadline;
use sys::time::Timestamp;

use super::repositories::{Bench, each};
use testing::wait::FOREVER;

/// A trap: settings or files that make git run a command, and a plain git command that does so.
struct Trap {
    name: &'static str,
    set: fn(&Bench, &str),
    springs: &'static [&'static str],
}

/// Runs `git config KEY VALUE`, with the program's path in place of `%`.
fn config(bench: &Bench, program: &str, pairs: &[(&str, &str)]) {
    for (key, value) in pairs {
        bench.git(&["config", key, &value.replace('%', program)]);
    }
}

fn hook(bench: &Bench, name: &str, program: &str) {
    let path = bench.path(".git/hooks").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{program}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

const TRAPS: &[Trap] = &[
    Trap {
        name: "the hook on refs",
        set: |w, p| hook(w, "reference-transaction", p),
        springs: &["update-ref", "refs/heads/x", "HEAD"],
    },
    Trap {
        name: "the hook after a checkout",
        set: |w, p| hook(w, "post-checkout", p),
        springs: &["checkout", "-q", "-b", "x"],
    },
    Trap {
        name: "the hook after an index change",
        set: |w, p| hook(w, "post-index-change", p),
        springs: &["add", "a"],
    },
    Trap {
        name: "hooks elsewhere",
        set: |w, p| {
            hook(w, "reference-transaction", p);
            fs::rename(w.path(".git/hooks"), w.path(".git/elsewhere")).unwrap();
            config(w, p, &[("core.hooksPath", ".git/elsewhere")]);
        },
        springs: &["update-ref", "refs/heads/x", "HEAD"],
    },
    Trap {
        name: "a clean filter",
        set: |w, p| {
            w.write(".gitattributes", "* filter=f\n");
            config(
                w,
                p,
                &[
                    ("filter.f.clean", "%; cat"),
                    ("filter.f.smudge", "%; cat"),
                    ("filter.f.required", "true"),
                ],
            );
        },
        springs: &["add", "."],
    },
    Trap {
        name: "a process filter, by info/attributes",
        set: |w, p| {
            fs::create_dir_all(w.path(".git/info")).unwrap();
            fs::write(w.path(".git/info/attributes"), "* filter=f\n").unwrap();
            config(w, p, &[("filter.f.process", "%")]);
        },
        springs: &["add", "."],
    },
    Trap {
        name: "fsmonitor",
        set: |w, p| config(w, p, &[("core.fsmonitor", "%")]),
        springs: &["status"],
    },
    Trap {
        name: "an included file",
        set: |w, p| {
            fs::write(w.path(".git/more"), format!("[core]\n\tfsmonitor = {p}\n")).unwrap();
            config(w, p, &[("include.path", "more")]);
        },
        springs: &["status"],
    },
    Trap {
        name: "configuration of one worktree",
        set: |w, p| {
            config(w, p, &[("extensions.worktreeConfig", "true")]);
            fs::write(
                w.path(".git/config.worktree"),
                format!("[core]\n\tfsmonitor = {p}\n"),
            )
            .unwrap();
        },
        springs: &["status"],
    },
    Trap {
        name: "an external diff",
        set: |w, p| config(w, p, &[("diff.external", "%")]),
        springs: &["diff"],
    },
    Trap {
        name: "textconv",
        set: |w, p| {
            w.write(".gitattributes", "* diff=d\n");
            config(w, p, &[("diff.d.textconv", "%; cat")]);
        },
        springs: &["diff"],
    },
    Trap {
        name: "a merge driver",
        set: |w, p| {
            w.write(".gitattributes", "* merge=m\n");
            config(w, p, &[("merge.m.driver", "%")]);
            w.git(&["branch", "other", "HEAD~"]);
            w.git(&["checkout", "-q", "other"]);
            w.write("a", "theirs\n");
            w.git(&["commit", "-qam", "Theirs"]);
            w.git(&["checkout", "-q", "main"]);
        },
        springs: &["merge", "other"],
    },
    Trap {
        name: "an alias",
        set: |w, p| {
            config(
                w,
                p,
                &[
                    ("alias.sx", "!%"),
                    ("alias.status", "!%"),
                    ("alias.ls-files", "!%"),
                ],
            );
        },
        springs: &["sx"],
    },
    Trap {
        name: "gpg",
        set: |w, p| {
            config(
                w,
                p,
                &[
                    ("commit.gpgSign", "true"),
                    ("gpg.program", "%"),
                    ("log.showSignature", "true"),
                    ("tag.gpgSign", "true"),
                ],
            );
        },
        springs: &["commit", "-q", "--allow-empty", "-m", "Signed"],
    },
    Trap {
        name: "a pager",
        set: |w, p| {
            config(
                w,
                p,
                &[("core.pager", "%; cat"), ("pager.status", "%; cat")],
            );
        },
        springs: &[
            "-c",
            "alias.p=!GIT_PAGER_IN_USE=1 sh -c \"$(git var GIT_PAGER)\"",
            "p",
        ],
    },
    Trap {
        name: "ssh, and another URL for it",
        set: |w, p| {
            config(
                w,
                p,
                &[
                    ("core.sshCommand", "%"),
                    ("url.ssh://h/.insteadOf", "x:"),
                    ("remote.origin.url", "x:y"),
                ],
            );
        },
        springs: &["fetch", "origin"],
    },
    Trap {
        name: "a remote that is a program",
        set: |w, p| {
            config(
                w,
                p,
                &[
                    ("protocol.ext.allow", "always"),
                    ("remote.origin.url", "ext::%"),
                    ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
                ],
            );
        },
        springs: &["fetch", "origin"],
    },
    Trap {
        name: "objects that have to be fetched",
        set: |w, p| {
            config(
                w,
                p,
                &[
                    ("core.repositoryformatversion", "1"),
                    ("extensions.partialClone", "origin"),
                    ("protocol.ext.allow", "always"),
                    ("remote.origin.promisor", "true"),
                    ("remote.origin.url", "ext::%"),
                ],
            );
        },
        springs: &["cat-file", "-p", "1234567890123456789012345678901234567890"],
    },
    Trap {
        name: "objects that have to be fetched from a directory",
        set: |w, p| {
            config(
                w,
                p,
                &[
                    ("core.repositoryformatversion", "1"),
                    ("extensions.partialClone", "origin"),
                    ("remote.origin.promisor", "true"),
                    ("remote.origin.url", "/nowhere"),
                    ("remote.origin.uploadpack", "%"),
                ],
            );
        },
        springs: &["cat-file", "-p", "1234567890123456789012345678901234567890"],
    },
    Trap {
        name: "credentials",
        set: |w, p| config(w, p, &[("credential.helper", "!%"), ("core.askPass", "%")]),
        springs: &[
            "-c",
            "alias.c=!echo url=https://localhost | git credential fill",
            "c",
        ],
    },
    Trap {
        name: "a submodule's update",
        set: |w, p| {
            inner(w, "sub");
            w.git(&["add", "sub"]);
            w.write(
                ".gitmodules",
                "[submodule \"sub\"]\n\tpath = sub\n\turl = ./sub\n",
            );
            config(
                w,
                p,
                &[
                    ("submodule.sub.update", "!%"),
                    ("submodule.sub.url", "./sub"),
                    ("submodule.recurse", "true"),
                ],
            );
            w.git_in(
                &w.path("sub"),
                &["commit", "-q", "--allow-empty", "-m", "Two"],
            );
        },
        springs: &["submodule", "update"],
    },
    Trap {
        name: "what refs others have",
        set: |w, p| {
            fs::write(
                w.path(".git/objects/info/alternates"),
                w.path(".git/objects").to_str().unwrap(),
            )
            .unwrap();
            let other = w.dir.join("other.git");
            w.git(&[
                "clone",
                "-q",
                "--bare",
                w.workspace.to_str().unwrap(),
                other.to_str().unwrap(),
            ]);
            fs::write(
                w.path(".git/objects/info/alternates"),
                other.join("objects").to_str().unwrap(),
            )
            .unwrap();
            config(
                w,
                p,
                &[
                    ("core.alternateRefsCommand", "%"),
                    ("remote.o.url", other.to_str().unwrap()),
                ],
            );
        },
        springs: &["fetch", "--refmap=", "o", "+HEAD:refs/heads/x"],
    },
    Trap {
        name: "a repository inside with a trap",
        set: |w, p| {
            inner(w, "sub");
            w.git_in(&w.path("sub"), &["config", "core.fsmonitor", p]);
        },
        springs: &["-C", "sub", "status"],
    },
    Trap {
        name: "a submodule with a trap",
        set: |w, p| {
            inner(w, "sub");
            w.git(&["add", "sub"]);
            w.write(
                ".gitmodules",
                "[submodule \"sub\"]\n\tpath = sub\n\turl = ./sub\n",
            );
            w.git_in(&w.path("sub"), &["config", "core.fsmonitor", p]);
        },
        springs: &["status"],
    },
    Trap {
        name: "the user's own configuration",
        set: |w, p| {
            fs::write(
                w.dir.join("home/.gitconfig"),
                format!("[core]\n\tfsmonitor = {p}\n"),
            )
            .unwrap();
        },
        springs: &["status"],
    },
];

fn inner(w: &Bench, name: &str) {
    let path = w.path(name);
    fs::create_dir(&path).unwrap();
    w.git_in(&path, &["init", "-q", "-b", "main"]);
    fs::write(path.join("x"), "x\n").unwrap();
    w.git_in(&path, &["add", "."]);
    w.git_in(&path, &["commit", "-qm", "Inner"]);
    fs::write(path.join("y"), "y\n").unwrap();
}

/// Writes a program that leaves a footprint file when it is run.
fn program(bench: &Bench) -> (String, PathBuf) {
    let footprint = bench.dir.join("footprint");
    let path = bench.dir.join("trap");
    fs::write(
        &path,
        format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\n", footprint.display()),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (path.to_str().unwrap().to_owned(), footprint)
}

fn set(trap: &Trap) -> (Bench, PathBuf) {
    let bench = Bench::new();
    let (program, footprint) = program(&bench);
    bench.write("a", "changed\n");
    bench.git(&["stash", "-q"]);
    (trap.set)(&bench, &program);
    bench.write("a", "changed again\n");
    fs::remove_file(&footprint).ok();
    (bench, footprint)
}

#[test]
fn no_command_that_a_repository_configures_is_executed() {
    each(
        TRAPS,
        |trap| trap.name,
        |trap| {
            let (bench, footprint) = set(trap);
            bench.git_says(&bench.workspace, trap.springs);
            assert!(footprint.exists(), "{}: the trap does not work", trap.name);

            let (bench, footprint) = set(trap);
            let checkpoint = bench.taken();
            bench.write("a", "and again\n");
            bench.write("b", "b too\n");
            assert!(
                matches!(bench.try_take().unwrap(), CheckpointOutcome::Taken(_)),
                "{}",
                trap.name
            );
            rollback(&bench.place(), &checkpoint.id, true).unwrap();
            assert_eq!(
                fs::read_to_string(bench.path("a")).unwrap(),
                "changed again\n",
                "{}",
                trap.name
            );
            let place = bench.place_at(&bench.dir.join("again"), "private-again");
            rebuild(&place, &bench.workspace, &checkpoint.id).unwrap();
            run_other_operations(&bench, trap.name);
            let said = fs::read_to_string(&footprint).unwrap_or_default();
            assert!(!footprint.exists(), "{}: {said}", trap.name);
        },
    );
}

/// Runs all other operations on a repository: status, sizes, diff, prune and repair.
fn run_other_operations(bench: &Bench, name: &str) {
    let (place, deadline) = (bench.place(), Deadline::after(FOREVER));
    let (data_dir, _) = DataDir::init(&bench.dir.join("data-dir")).unwrap();
    // As if an editor had saved the file unchanged: git has to read it.
    bench.write("b", "b as committed\n");
    let private = bench.dir.join("private-status");
    let said = checkpoint::workspace::status(&bench.workspace, &private, &["--porcelain"]);
    assert!(said.is_some(), "{name}");
    let all = list(&place).unwrap();
    sizes(&bench.workspace, &all, deadline).unwrap();
    let (from, to) = (&all[1].commit, &all[0].commit);
    for (layer, stat) in [(Layer::Worktree, false), (Layer::Index, true)] {
        difference(&bench.workspace, from, to, layer, stat, false, deadline).unwrap();
    }
    let nothing = Keep {
        all: Span::from_secs(0),
        hourly: Span::from_secs(0),
        daily: Span::from_secs(0),
    };
    for round in 0..4 {
        bench.write("n", &format!("{round}\n"));
        bench.taken();
    }
    let gone = prune_at(&place, &nothing, Timestamp::now(), true, deadline).unwrap();
    assert!(!gone.is_empty(), "{name}");
    fs::write(bench.path(".git/index"), "damaged").unwrap();
    repair(&data_dir, &place, deadline).unwrap();
    let said = checkpoint::workspace::status(&bench.workspace, &private, &["--porcelain"]);
    assert!(said.is_some(), "{name}: the index was not repaired");
}

#[test]
fn a_git_directory_that_does_not_acknowledge_the_workspace_is_not_written_to() {
    let victim = Bench::new();
    let refused = |bench: &Bench, what: &str| {
        let before = super::repositories::fingerprint(&victim);
        let objects = count(&victim.path(".git"));
        let error = bench.try_take().unwrap_err();
        assert!(sys::error::hint_of(&error).is_some(), "{what}: {error:#}");
        assert_eq!(super::repositories::fingerprint(&victim), before, "{what}");
        assert_eq!(count(&victim.path(".git")), objects, "{what}");
    };
    let git_dir = victim.path(".git").to_str().unwrap().to_owned();

    let bench = Bench::bare();
    bench.write("mine", "x\n");
    fs::write(bench.path(".git"), format!("gitdir: {git_dir}\n")).unwrap();
    refused(&bench, "a file");

    let bench = Bench::bare();
    std::os::unix::fs::symlink(&git_dir, bench.path(".git")).unwrap();
    refused(&bench, "a link");

    let bench = Bench::new();
    fs::write(bench.path(".git/commondir"), format!("{git_dir}\n")).unwrap();
    refused(&bench, "commondir");

    let bench = Bench::new();
    bench.git(&[
        "config",
        "core.worktree",
        victim.workspace.to_str().unwrap(),
    ]);
    refused(&bench, "core.worktree");
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { count(&path) } else { 1 }
        })
        .sum()
}

#[test]
fn a_rollback_follows_no_link_in_the_git_directory() {
    let bench = Bench::new();
    let outside = bench.dir.join("outside");
    fs::write(&outside, "precious\n").unwrap();
    bench.git(&["checkout", "-q", "-b", "other", "HEAD~"]);
    bench.write("a", "theirs\n");
    bench.git(&["commit", "-qam", "Theirs"]);
    bench.git(&["checkout", "-q", "main"]);
    bench.git_says(&bench.workspace, &["merge", "other"]);
    let checkpoint = bench.taken();
    fs::remove_file(bench.path(".git/MERGE_MSG")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path(".git/MERGE_MSG")).unwrap();
    rollback(&bench.place(), &checkpoint.id, false).unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious\n");
    assert!(!bench.path(".git/MERGE_MSG").is_symlink());
}
