//! `scripts/words`: what it finds in code, prose, names and paths, and what it leaves alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const LIST: &str = "\
# pattern  where  use  allowed
Blorb|fn zap  code  Name  src/old/*.rs
quux  part  part
the frob  prose  phrase  **/*.md
snark  any  both
wib  file  path
";

/// Writes the files and the list into a directory, and returns the exit status and what is printed.
fn run(list: &str, files: &[(&str, &str)], options: &[&str]) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(dir.path().join("list"), list).unwrap();
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/words"))
        .args(options)
        .args(files.iter().map(|(path, _)| path))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

/// The lines of `src/a.rs` in which a word of the list is found.
fn lines_found(text: &str) -> Vec<usize> {
    let (code, printed) = run(LIST, &[("src/a.rs", text)], &["--list", "list"]);
    let lines: Vec<usize> = printed
        .lines()
        .filter_map(|line| {
            line.strip_prefix("src/a.rs:")?
                .split(':')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    assert_eq!(code, i32::from(!lines.is_empty()), "{printed}");
    assert!(
        printed.ends_with(&format!("{} found\n", lines.len())),
        "{printed}"
    );
    lines
}

#[test]
fn a_pattern_for_code_is_found_in_code_only() {
    let text = "struct Blorb;\n// Blorb\nconst A: &str = \"Blorb\";\nstruct Blorbs;\n/* Blorb\n \
                Blorb */ type B = Blorb;\nfn zap() {}\nfn zapped() { x.zap() }\n";
    assert_eq!(lines_found(text), [1, 6, 7]);
}

#[test]
fn a_pattern_for_prose_is_found_in_comments_and_strings_only() {
    let text = "/// The frob.\nlet the; frob;\nlet a = \"\\nthe frob\";\n\
                let b = r#\"\"the frob\"#;\n// It is the\n    // frob, and the \
                frobs.\nfn the() {} // x\nfn frob() {}\n";
    assert_eq!(lines_found(text), [1, 3, 4, 5]);
}

#[test]
fn a_part_of_a_name_is_found_however_it_is_spelled() {
    let text = "struct MyQuux;\nconst A_QUUX: u8 = 0;\nlet quux_id = 0;\nlet quuxes = 0;\n\
                // quux as a word, and `my_quux`\n";
    assert_eq!(lines_found(text), [1, 2, 3, 5]);
}

#[test]
fn a_pattern_for_both_is_found_in_names_and_in_prose() {
    let text = "let snark = 0;\n// Snark.\nlet x = \"snark\";\nlet snarky = 0; // snarky\n";
    assert_eq!(lines_found(text), [1, 2, 3]);
}

#[test]
fn lifetimes_quotes_and_nested_comments_do_not_confuse_code_with_strings() {
    let text = "fn f<'a,'b>(x: &'a str) -> char { '\"' }\nstruct Blorb;\nlet c = '\\'';\n\
                struct Blorb;\n\
                /* a /* b */ \" */ struct Blorb;\nlet d = 'é'; let e = \"\\\\\"; struct Blorb;\n\
                let f = br##\"\"# Blorb\"##; // '\"'\nstruct Blorb;\n";
    assert_eq!(lines_found(text), [2, 4, 5, 6, 8]);
}

#[test]
fn an_old_name_that_is_still_read_is_allowed_where_it_is_an_alias() {
    let text = "#[serde(alias = \"snark\")]\n#[serde(rename = \"snark\")]\n";
    assert_eq!(lines_found(text), [2]);
}

#[test]
fn a_pattern_is_allowed_in_the_files_that_its_row_names() {
    let files = [
        ("src/old/a.rs", "struct Blorb;\n"),
        ("src/old/more/a.rs", "struct Blorb;\n"),
        ("docs/a.md", "the frob\n"),
        ("units/a.service", "# the frob\n"),
    ];
    let (_, printed) = run(LIST, &files, &["--list", "list"]);
    assert_eq!(
        printed,
        "src/old/more/a.rs:1: \"Blorb\" (use: Name)\n\
         units/a.service:1: \"the frob\" (use: phrase)\n2 found\n"
    );
}

#[test]
fn a_pattern_for_files_is_found_in_the_path() {
    let (code, printed) = run(LIST, &[("src/wib.rs", "\n")], &["--list", "list"]);
    assert_eq!(
        (code, printed.as_str()),
        (1, "src/wib.rs:1: \"wib\" (use: path)\n1 found\n")
    );
}

#[test]
fn a_row_that_can_never_match_is_an_error() {
    for row in [
        "a(b  prose  x",
        "ab  nowhere  x",
        "ab  prose",
        "ab  prose  x  *.rs  more",
        "a?  prose  x",
        "Ab  part  x",
        "\"ab\"  code  x",
        "ab  prose  x\nab  prose  y",
        "",
    ] {
        let (code, printed) = run(row, &[("a.rs", "")], &["--list", "list"]);
        assert_eq!(code, 2, "{row}: {printed}");
    }
}

#[test]
fn the_list_itself_has_no_row_that_can_never_match() {
    let (code, printed) = run("", &[("a.rs", "fn main() {}\n")], &[]);
    assert_eq!((code, printed.as_str()), (0, "0 found\n"));
}

#[test]
fn width_counts_characters_and_leaves_out_what_cannot_be_broken() {
    let (wide, wider) = ("é".repeat(50) + &" é".repeat(25), "é ".repeat(51));
    let link = format!("https://example.org/{}", "a".repeat(100));
    let recorded = format!("a {{{}}}, {wider}", "b,".repeat(30));
    let text =
        format!("{wide}\n{wider}\n| {wider}\n{link}\n* [a page]({link})\nsee {link}\n{recorded}\n");
    let files = [("a.md", text.as_str()), ("a.snap", &wider)];
    let (code, printed) = run("", &files, &["--width"]);
    let expected = "a.md:2: 102 columns\n1 found\n";
    assert_eq!((code, printed.as_str()), (1, expected));
    let table = format!("// {wider}\n/// | {wider}\nNAME     {wider}     VALUE\n");
    let (_, printed) = run("", &[("a.rs", &table)], &["--width"]);
    assert_eq!(printed, "a.rs:1: 105 columns\n1 found\n");
}

#[test]
fn subjects_name_an_area_and_what_is_done() {
    let dir = TempDir::new().unwrap();
    let git = |args: &[&str]| {
        let names = ["-c", "user.name=a", "-c", "user.email=a@localhost"];
        let output = Command::new("git")
            .args(names)
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    git(&["init", "-q"]);
    let long = format!("keeper: say {}", "é".repeat(61));
    let most = format!("keeper: say {}", "é".repeat(60));
    for subject in [
        "keeper: save on the calling thread",
        "cli, docs: rename a flag",
        &most,
        &long,
        "Save on the calling thread",
        "keeper: Save it",
        "keeper: the keeper saves",
        "keeper: save it.",
    ] {
        git(&["commit", "-q", "--allow-empty", "-m", subject]);
    }
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/words"))
        .arg("--subjects")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.ends_with("\n5 found\n"), "{printed}");
    assert!(printed.contains("73 columns, at most 72"), "{printed}");
}
