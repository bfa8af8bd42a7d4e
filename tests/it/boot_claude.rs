//! Tests of the real Claude Code under real systemd.

use crate::boot::{Disk, Machine, agent, with_a_site};
use crate::real_claude::pinned;

#[test]
fn real_claude_is_cut_off_in_a_tool_by_the_power_button_and_continues_after_the_boot() {
    let test = "real_claude_is_cut_off_in_a_tool_by_the_power_button_and_continues_after_the_boot";
    let Some(claude) = pinned(test).and_then(|mut versions| versions.pop()) else {
        return;
    };
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let mut machine = Machine::new(site).with_claude(&claude.program);
        machine.boot(Some(&disk));
        machine.set_up(&agent("a", "tool"));
        machine.start();
        machine.wait_open("a");
        let session = machine.agent("a")["session_id"].clone();
        let text = machine.power_off().text();
        assert!(
            text.contains("everything safe after") && !text.contains("NOT CLEAN"),
            "{text}"
        );

        site.model.next_boot();
        machine.boot(Some(&disk));
        machine.until_model("a has ended its turn", |request_log| {
            request_log.agents["a"].turns_ended > 0
        });
        machine.wait_state("a", "idle");
        assert_eq!(machine.agent("a")["session_id"], session);
    });
}
