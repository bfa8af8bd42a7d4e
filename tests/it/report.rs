//! `spotkeep report` in each of its forms, and `spotkeep metrics`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Lab, is_root, run};

/// A fleet that was preempted, in its next boot.
fn preempted() -> Lab {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "tool", "");
    lab.declare("b", "idle", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    lab.wait_done("b");
    lab.wait_asked();
    lab.metadata().preempt();
    lab.wait_event("", "saved", 1);
    lab.until("the save is known", || {
        lab.status()["last_save"].is_object().then_some(())
    });
    drop(keeper);
    lab.next_boot();
    lab.leave_the_cloud();
    lab
}

fn states(report: &Value, name: &str) -> Vec<String> {
    let agents = report["agents"].as_array().unwrap();
    let agent = agents.iter().find(|agent| agent["name"] == name).unwrap();
    let spans = agent["timeline"].as_array().unwrap();
    spans
        .iter()
        .map(|span| span["doing"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_preemption_is_in_each_form_of_the_report_and_counted() {
    let lab = preempted();
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_up("b", 2);

    let metrics = lab.run(&["metrics"]).ok().out;
    for line in [
        "spotkeep_keeper_up 1",
        "spotkeep_boots_total 2",
        "spotkeep_preemptions_total 1",
        "spotkeep_epoch 2",
        "spotkeep_last_save_clean 1",
        "spotkeep_agent_up{agent=\"a\"} 1",
        "spotkeep_agents{state=\"failed\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    let textfile = lab.dir.join("tmp/spotkeep.prom");
    lab.run(&["metrics", "--textfile", textfile.to_str().unwrap()])
        .ok();
    let written = fs::read_to_string(&textfile).unwrap();
    assert!(
        written.ends_with('\n') && written.contains("\nspotkeep_keeper_up 1\n"),
        "{written}"
    );
    let mode = fs::metadata(&textfile).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "another user collects it");

    // The keeper's last events are in the journal once it has ended.
    keeper.let_go();
    assert!(
        lab.run(&["metrics"])
            .ok()
            .out
            .contains("\nspotkeep_keeper_up 0\n")
    );
    let report = lab.run(&["report", "--json"]).ok().json();
    let [end] = &report["preemptions"].as_array().unwrap()[..] else {
        panic!("{report}")
    };
    assert_eq!(end["kind"], "preempted");
    assert_eq!(
        (&end["clean"], &end["survived"]),
        (&true.into(), &false.into())
    );
    assert_eq!(
        (&end["agents_total"], &end["agents_back"]),
        (&2.into(), &2.into())
    );
    assert_eq!(
        (
            &end["turns_cut"],
            &end["turns_continued"],
            &end["turns_lost"]
        ),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(end["records_lost"], 0);
    for figure in [
        "transcripts_safe_ms",
        "notice_to_safe_ms",
        "gone_ms",
        "boot_to_resumed_ms",
        "away_ms",
    ] {
        assert!(end[figure].is_u64(), "{figure}: {end}");
    }
    let a = states(&report, "a");
    let away = a
        .iter()
        .position(|state| state == "away")
        .unwrap_or_else(|| panic!("{a:?}"));
    assert!(a[..away].contains(&"working".to_owned()), "{a:?}");
    assert!(
        !a[away + 1..].contains(&"away".to_owned()) && a.last().unwrap() == "unwatched",
        "{a:?}"
    );
    assert!(
        states(&report, "b").contains(&"idle".to_owned()),
        "{report}"
    );

    let text = lab.run(&["report", "--since", "2w"]).ok().out;
    for word in [
        "1 preemption, 1 of 1 clean",
        "0 of 1 interrupted turn\n",
        "        0 records\n",
        "2 of 2",
        "RECORDS LOST",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let page = lab.dir.join("tmp/fleet.html");
    lab.run(&["report", "--html", page.to_str().unwrap()]).ok();
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("class=\"away\""));
    lab.run(&["report", "--since", "soon"])
        .refused(2, "is not a span of time", "--since 7d");
    render(&page);
}

/// Renders a page in a browser without a network, in the light and in the dark scheme. The browser
/// is too large to install for this: where there is none, or no network namespace can be made, the
/// check is skipped, in CI too.
fn render(page: &Path) {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find_map(|name| {
            let dirs = std::env::var_os("PATH")?;
            std::env::split_paths(&dirs)
                .map(|dir| dir.join(name))
                .find(|path| path.exists())
        });
    let Some(browser) = found.filter(|_| is_root()) else {
        eprintln!("skipped: rendering the page needs chromium, and root for a network namespace");
        return;
    };
    let (day, night) = (draw(&browser, page, 1), draw(&browser, page, 0));
    // An empty page is a picture of some 5 kB.
    assert!(
        day.len() > 12_000 && night.len() > 12_000,
        "{} {}",
        day.len(),
        night.len()
    );
    assert!(day != night, "the light and the dark scheme look the same");
}

fn draw(browser: &Path, page: &Path, scheme: u8) -> Vec<u8> {
    let dir = page.with_extension(format!("browser-{scheme}"));
    fs::create_dir(&dir).unwrap();
    let picture: PathBuf = dir.join("page.png");
    let line = format!(
        "ip link set lo up; exec '{}' --headless --no-sandbox --disable-gpu --disable-quic \
         --no-first-run \
         --disable-background-networking --disable-component-update --disable-sync \
         --hide-scrollbars \
         --blink-settings=preferredColorScheme={scheme} --window-size=1200,900 \
         --user-data-dir='{}' --screenshot='{}' 'file://{}'",
        browser.display(),
        dir.display(),
        picture.display(),
        page.display()
    );
    let mut command = Command::new("unshare");
    // In its own PID namespace, so that no process outlives the picture.
    command.args([
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        &line,
    ]);
    let output = run(&mut command).unwrap();
    let bytes = fs::read(&picture).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert!(bytes.starts_with(b"\x89PNG"));
    bytes
}
