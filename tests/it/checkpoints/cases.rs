//! The states of a workspace that checkpoints are tested with.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::repositories::Bench;

/// A state of a workspace, and how to create it.
pub struct Case {
    pub name: &'static str,
    pub make: fn() -> Bench,
    /// Whether the workspace can be recreated from its repository alone: nested repositories
    /// cannot.
    pub rebuilds: bool,
}

const fn case(name: &'static str, make: fn() -> Bench) -> Case {
    Case {
        name,
        make,
        rebuilds: true,
    }
}

/// A state with nested repositories, whose checkpoints are in their own repositories.
const fn nested(name: &'static str, make: fn() -> Bench) -> Case {
    Case {
        name,
        make,
        rebuilds: false,
    }
}

macro_rules! on_new {
    ($bench:ident, $body:expr) => {
        || {
            let $bench = Bench::new();
            $body;
            $bench
        }
    };
}

pub const CASES: &[Case] = &[
    case("clean", Bench::new),
    case(
        "staged",
        on_new!(w, {
            w.write("a", "s\n");
            w.git(&["add", "a"])
        }),
    ),
    case("unstaged", on_new!(w, w.write("a", "u\n"))),
    case(
        "staged and changed again",
        on_new!(w, {
            w.write("a", "s\n");
            w.git(&["add", "a"]);
            w.write("a", "u\n");
        }),
    ),
    case(
        "added and deleted",
        on_new!(w, {
            w.write("n", "s\n");
            w.git(&["add", "n"]);
            fs::remove_file(w.path("n")).unwrap();
        }),
    ),
    case(
        "added and changed again",
        on_new!(w, {
            w.write("n", "s\n");
            w.git(&["add", "n"]);
            w.write("n", "u\n");
        }),
    ),
    case(
        "untracked, in directories",
        on_new!(w, {
            w.write("n", "n\n");
            w.write("deep/er/n", "n\n");
            w.write("dir/z", "z\n");
        }),
    ),
    case(
        "deleted and not staged",
        on_new!(w, {
            fs::remove_file(w.path("a")).unwrap();
            fs::remove_dir_all(w.path("dir")).unwrap();
        }),
    ),
    case(
        "deleted and staged",
        on_new!(w, w.git(&["rm", "-q", "-r", "a", "dir"])),
    ),
    case(
        "deleted from the index only",
        on_new!(w, w.git(&["rm", "-q", "--cached", "a"])),
    ),
    case(
        "renamed",
        on_new!(w, {
            w.git(&["mv", "a", "z"]);
            fs::rename(w.path("b"), w.path("y")).unwrap();
        }),
    ),
    case(
        "modes",
        on_new!(w, {
            fs::set_permissions(w.path("a"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(w.path("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
            w.git(&["add", "a"])
        }),
    ),
    case(
        "links",
        on_new!(w, {
            fs::remove_file(w.path("link")).unwrap();
            symlink("nowhere/at all", w.path("link")).unwrap();
            symlink("/etc/passwd", w.path("new link")).unwrap();
            fs::remove_file(w.path("b")).unwrap();
            symlink("a", w.path("b")).unwrap();
        }),
    ),
    case(
        "a directory becomes a link",
        on_new!(w, {
            fs::rename(w.path("dir"), w.path("dir2")).unwrap();
            symlink("dir2", w.path("dir")).unwrap();
        }),
    ),
    case(
        "a file becomes a directory, and a directory a file",
        on_new!(w, {
            fs::remove_file(w.path("a")).unwrap();
            w.write("a/inside", "x\n");
            fs::remove_dir_all(w.path("dir")).unwrap();
            w.write("dir", "a file\n");
        }),
    ),
    case(
        "names",
        on_new!(w, {
            for name in [
                "with\nline",
                " spaces ",
                "täglich/日本",
                "tab\there",
                "quo\"te",
                "-dash",
                "star*[x]",
                ":(top)x",
                "#",
            ] {
                w.write(name, name);
            }
            let raw = std::ffi::OsStr::from_bytes(b"not-utf8-\xff");
            fs::write(w.workspace.join(raw), "raw").unwrap();
            w.git(&["add", "--", "with\nline"]);
            w.write("with\nline", "changed");
        }),
    ),
    case(
        "intent to add",
        on_new!(w, {
            for name in ["n1", "n2", "deep/n3", "n4"] {
                w.write(name, "content\n");
            }
            w.git(&["add", "-N", "n1", "n2", "deep/n3", "n4"]);
            fs::remove_file(w.path("n2")).unwrap();
            fs::write(w.path("n4"), "").unwrap();
        }),
    ),
    case(
        "ignored files",
        on_new!(w, {
            w.write(".gitignore", "*.o\nout/\n");
            w.write("x.o", "o");
            w.write("out/y", "y");
            w.write("forced.o", "f");
            w.git(&["add", "-f", "forced.o"])
        }),
    ),
    case(
        "ignored by info/exclude and by the user",
        on_new!(w, {
            fs::write(w.path(".git/info/exclude"), "*.ex\n").unwrap();
            fs::write(w.dir.join("home/ignore"), "*.user\n").unwrap();
            w.git(&[
                "config",
                "core.excludesFile",
                w.dir.join("home/ignore").to_str().unwrap(),
            ]);
            w.write("x.ex", "x");
            w.write("x.user", "x");
            w.write("x.other", "x");
        }),
    ),
    case("a merge in conflict", || conflict(&["merge", "other"])),
    case("a merge in conflict, one file solved", || {
        let w = conflict(&["merge", "other"]);
        w.write("b", "solved\n");
        w.git(&["add", "b"]);
        w
    }),
    case(
        "a merge that is not committed",
        on_new!(w, {
            w.git(&["checkout", "-q", "-b", "other", "HEAD~"]);
            w.write("n", "n\n");
            w.git(&["add", "."]);
            w.git(&["commit", "-qm", "Other"]);
            w.git(&["checkout", "-q", "main"]);
            w.git(&["merge", "-q", "--no-commit", "--no-ff", "other"])
        }),
    ),
    case("a rebase in conflict", || conflict(&["rebase", "other"])),
    case("a rebase by patches in conflict", || {
        conflict(&["rebase", "--apply", "other"])
    }),
    case(
        "an interactive rebase at an edit",
        on_new!(w, {
            w.write("c", "three\n");
            w.git(&["commit", "-qam", "Three"]);
            w.git(&[
                "-c",
                "sequence.editor=sed -i s/^pick/edit/",
                "rebase",
                "-q",
                "-i",
                "HEAD~2",
            ]);
            w.write("d", "being edited\n");
        }),
    ),
    case("a rebase with an autostash", || {
        let w = diverged();
        w.write("d", "stashed\n");
        w.git_says(&w.workspace, &["rebase", "--autostash", "other"]);
        w
    }),
    case("a cherry-pick in conflict", || {
        conflict(&["cherry-pick", "other~", "other"])
    }),
    case(
        "a revert in conflict",
        on_new!(w, {
            w.write("a", "three\n");
            w.git(&["commit", "-qam", "Three"]);
            w.git_says(&w.workspace, &["revert", "HEAD~"])
        }),
    ),
    case(
        "a bisection",
        on_new!(w, {
            for n in 3..9 {
                w.write("a", &format!("{n}\n"));
                w.git(&["commit", "-qam", &format!("{n}")]);
            }
            w.git(&["bisect", "start", "HEAD", "HEAD~6"]);
            w.write("b", "tried\n");
        }),
    ),
    case(
        "a detached HEAD",
        on_new!(w, {
            w.git(&["checkout", "-q", "HEAD~"]);
            w.write("a", "x\n");
        }),
    ),
    case("no commit yet", || {
        let w = Bench::empty();
        w.write("a", "staged\n");
        w.git(&["add", "a"]);
        w.write("a", "changed\n");
        w.write("b", "untracked\n");
        w
    }),
    case(
        "an orphan branch",
        on_new!(w, {
            w.git(&["checkout", "-q", "--orphan", "fresh"]);
            w.write("a", "x\n");
        }),
    ),
    case(
        "assume unchanged, skip worktree",
        on_new!(w, {
            w.git(&["update-index", "--assume-unchanged", "a"]);
            w.git(&["update-index", "--skip-worktree", "b", "c"]);
            for name in ["a", "b"] {
                w.write(name, "changed in secret\n");
            }
        }),
    ),
    case(
        "a sparse checkout",
        on_new!(w, {
            w.write("other/z", "z\n");
            w.write("deep/er/z", "z\n");
            w.git(&["add", "."]);
            w.git(&["commit", "-qm", "More"]);
            w.git(&["sparse-checkout", "set", "dir"]);
            w.write("dir/x", "changed\n");
            w.write("other/new", "outside\n");
        }),
    ),
    case(
        "a sparse index",
        on_new!(w, {
            w.write("other/z", "z\n");
            w.write("deep/er/z", "z\n");
            w.git(&["add", "."]);
            w.git(&["commit", "-qm", "More"]);
            w.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "dir"]);
            w.write("dir/x", "changed\n");
        }),
    ),
    case(
        "a split index",
        on_new!(w, {
            w.git(&["update-index", "--split-index"]);
            w.write("a", "s\n");
            w.git(&["add", "a"]);
            w.write("b", "u\n");
        }),
    ),
    case(
        "an index of version 4, with untracked cache",
        on_new!(w, {
            w.git(&[
                "update-index",
                "--index-version",
                "4",
                "--force-untracked-cache",
            ]);
            w.write("a", "s\n");
            w.git(&["add", "a"]);
            w.write("dir/new", "u\n");
        }),
    ),
    case("SHA-256", || {
        let w = Bench::bare();
        w.git(&["init", "-q", "-b", "main", "--object-format=sha256"]);
        w.fill();
        w.write("a", "s\n");
        w.git(&["add", "a"]);
        w.write("b", "u\n");
        w
    }),
    case("a reftable, with a merge in it", || {
        let w = Bench::bare();
        // Older versions of git do not support it.
        if !w
            .git_says(
                &w.workspace,
                &["init", "-q", "-b", "main", "--ref-format=reftable"],
            )
            .status
            .success()
        {
            w.git(&["init", "-q", "-b", "main"]);
        }
        w.fill();
        w.write("d", "stashed\n");
        w.git(&["stash", "-q"]);
        diverge(&w);
        w.git_says(&w.workspace, &["cherry-pick", "other"]);
        w
    }),
    case(
        "the stash",
        on_new!(w, {
            for n in 0..3 {
                w.write("a", &format!("stash {n}\n"));
                w.write("u", &format!("untracked {n}\n"));
                w.git(&["stash", "push", "-q", "-u", "-m", &format!("number {n}")]);
            }
            w.write("b", "x\n");
        }),
    ),
    case(
        "packed refs and objects",
        on_new!(w, {
            w.git(&["tag", "-a", "-m", "t", "v1"]);
            w.git(&["gc", "-q"]);
            w.write("a", "x\n");
        }),
    ),
    case(
        "line ends",
        on_new!(w, {
            w.write(
                ".gitattributes",
                "*.txt text=auto\n*.bat text eol=crlf\n*.id ident\n*.u16 \
                                       text working-tree-encoding=UTF-16LE\n",
            );
            w.write("clean.txt", "windows\r\nlines\r\n");
            w.write("mixed.txt", "mixed\r\nlines\n");
            w.write("clean.bat", "echo\r\n");
            w.write("dirty.bat", "echo\r\n");
            w.write("x.id", "$Id$\n");
            fs::write(
                w.path("x.u16"),
                "hi\n"
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect::<Vec<_>>(),
            )
            .unwrap();
            w.git(&["-c", "core.safecrlf=false", "add", "."]);
            w.git(&["commit", "-qm", "Text"]);
            fs::remove_file(w.path("x.id")).unwrap();
            w.git(&["checkout", "-q", "x.id"]);
            w.write("dirty.bat", "lone line\nand\r\n");
        }),
    ),
    case(
        "line ends by configuration",
        on_new!(w, {
            w.git(&["config", "core.autocrlf", "true"]);
            w.write("t", "one\r\ntwo\r\n");
            w.git(&["add", "t"]);
            w.git(&["commit", "-qm", "T"]);
            w.write("u", "new\r\n");
        }),
    ),
    case(
        "a required filter that is missing",
        on_new!(w, {
            w.write(
                ".gitattributes",
                "*.bin filter=lfs diff=lfs merge=lfs -text\n",
            );
            w.git(&["add", "."]);
            w.write(
                "x.bin",
                "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
            );
            w.git(&["add", "x.bin"]);
            w.git(&["commit", "-qm", "Large"]);
            w.git(&["config", "filter.lfs.clean", "not-installed clean"]);
            w.git(&["config", "filter.lfs.required", "true"]);
            w.write("y.bin", "raw content\n");
        }),
    ),
    case(
        "a missing index",
        on_new!(w, {
            w.write("a", "x\n");
            fs::remove_file(w.path(".git/index")).unwrap();
        }),
    ),
    case(
        "a lock left behind",
        on_new!(w, {
            w.write("a", "x\n");
            fs::write(w.path(".git/index.lock"), "").unwrap();
        }),
    ),
    case(
        "a change of equal size and time",
        on_new!(w, {
            w.git(&["update-index", "--refresh"]);
            // Same size, same second: git has to read the file.
            w.write("a", "A of two\n");
        }),
    ),
    case(
        "large directories that are ignored",
        on_new!(w, {
            w.write("node_modules/.gitignore", "*\n");
            w.write("node_modules/x/y", "y\n");
            w.write("a", "x\n");
        }),
    ),
    nested(
        "a repository inside",
        on_new!(w, {
            let inner = inner(&w, "inner");
            w.git_in(&inner, &["add", "new"]);
            fs::write(inner.join("more"), "untracked\n").unwrap();
        }),
    ),
    nested(
        "a repository without commits inside",
        on_new!(w, {
            let path = w.path("empty-repo");
            fs::create_dir(&path).unwrap();
            w.git_in(&path, &["init", "-q", "-b", "main"]);
            fs::write(path.join("x"), "x\n").unwrap();
            w.write("a", "x\n");
        }),
    ),
    nested("a submodule with changes", || {
        let w = Bench::new();
        let library = w.dir.join("library");
        fs::create_dir(&library).unwrap();
        w.git_in(&library, &["init", "-q", "-b", "main"]);
        fs::write(library.join("lib"), "one\n").unwrap();
        w.git_in(&library, &["add", "."]);
        w.git_in(&library, &["commit", "-qm", "Lib"]);
        w.git(&[
            "submodule",
            "--quiet",
            "add",
            library.to_str().unwrap(),
            "deps/lib",
        ]);
        w.git(&["commit", "-qm", "With a submodule"]);
        w.write("deps/lib/lib", "staged\n");
        w.git_in(&w.path("deps/lib"), &["add", "lib"]);
        w.write("deps/lib/lib", "changed\n");
        w.write("deps/lib/new", "new\n");
        w.write("a", "x\n");
        w
    }),
    nested(
        "a repository inside of one inside",
        on_new!(w, {
            let first = inner(&w, "inner");
            let second = inner(&w, "inner/inner");
            w.git_in(&second, &["add", "new"]);
            fs::write(second.join("x"), "changed\n").unwrap();
            fs::write(first.join("x"), "changed\n").unwrap();
        }),
    ),
    case("a linked worktree", || {
        let mut w = Bench::new();
        let linked = w.dir.join("linked");
        w.git(&[
            "worktree",
            "add",
            "-q",
            "-b",
            "side",
            linked.to_str().unwrap(),
        ]);
        w.workspace = linked;
        w.write("a", "s\n");
        w.git(&["add", "a"]);
        w.write("b", "u\n");
        w.write("n", "n\n");
        w
    }),
    case("a linked worktree with a rebase", || {
        let mut w = diverged();
        let linked = w.dir.join("linked");
        w.git(&[
            "worktree",
            "add",
            "-q",
            "-b",
            "side",
            linked.to_str().unwrap(),
        ]);
        w.workspace = linked;
        w.git_says(&w.workspace, &["rebase", "other"]);
        w
    }),
];

fn inner(w: &Bench, name: &str) -> std::path::PathBuf {
    let path = w.path(name);
    fs::create_dir(&path).unwrap();
    w.git_in(&path, &["init", "-q", "-b", "main"]);
    fs::write(path.join("x"), "x\n").unwrap();
    w.git_in(&path, &["add", "."]);
    w.git_in(&path, &["commit", "-qm", "Inner"]);
    fs::write(path.join("new"), "new\n").unwrap();
    path
}

/// Creates two branches that changed the same lines in several ways.
fn diverge(w: &Bench) {
    w.git(&["checkout", "-q", "-b", "other"]);
    for (name, text) in [("a", "other\n"), ("b", "other\n")] {
        w.write(name, text);
        w.git(&["commit", "-qam", &format!("Other {name}")]);
    }
    w.git(&["rm", "-q", "c"]);
    w.git(&["commit", "-q", "--amend", "-m", "Other b and c"]);
    w.git(&["checkout", "-q", "main"]);
    for name in ["a", "b", "c"] {
        w.write(name, "ours\n");
    }
    w.git(&["commit", "-qam", "Ours"]);
}

fn diverged() -> Bench {
    let w = Bench::new();
    diverge(&w);
    w
}

fn conflict(arguments: &[&str]) -> Bench {
    let w = diverged();
    let output = w.git_says(&w.workspace, arguments);
    assert!(!output.status.success(), "{arguments:?} did not stop");
    let mut file = fs::File::options().append(true).open(w.path("a")).unwrap();
    file.write_all(b"half solved\n").unwrap();
    w.write("untracked", "u\n");
    w
}
