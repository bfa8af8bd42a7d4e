//! Links in the documentation: each leads to a file of the repository, and to a heading in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The Markdown files that users and developers read, below the repository.
fn pages() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    [top.to_owned(), top.join("docs"), top.join("docs/decisions")]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "md"))
        .collect()
}

/// The text outside of code blocks and code spans, line by line.
fn prose(text: &str) -> impl Iterator<Item = String> {
    let mut in_code = false;
    text.lines().filter_map(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        let outside = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        (!in_code && !is_fence).then_some(outside)
    })
}

/// The anchors of a page, as forges make them: of headings in lower case, without punctuation.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut in_code = false;
    let headings = text.lines().filter(|line| {
        in_code ^= line.starts_with("```");
        !in_code && line.starts_with('#')
    });
    let slug = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let text: String = heading
            .trim_start_matches('#')
            .trim()
            .chars()
            .filter(kept)
            .collect();
        text.to_lowercase().replace(' ', "-")
    };
    headings
        .map(slug)
        .map(|slug| {
            match seen
                .entry(slug.clone())
                .and_modify(|n| *n += 1)
                .or_insert(0)
            {
                0 => slug,
                n => format!("{slug}-{n}"),
            }
        })
        .collect()
}

/// `path` without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[test]
fn every_link_in_the_documentation_leads_somewhere() {
    let (mut links, mut broken) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in prose(&text) {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                if target.contains("://") {
                    continue;
                }
                links += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = match file {
                    "" => page.clone(),
                    _ => plain(&page.parent().unwrap().join(file)),
                };
                let is_there = match fs::read_to_string(&file) {
                    Ok(text) => anchor.is_empty() || anchors(&text).iter().any(|one| one == anchor),
                    Err(_) => file.is_dir() && anchor.is_empty(),
                };
                if !is_there {
                    broken.push(format!("{}: {target}", page.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(links > 100, "only {links} links were found");
}
