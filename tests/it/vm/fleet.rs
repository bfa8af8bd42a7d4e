//! The fleet of a VM drill: agents in the VM, and the fake API, metadata server and disks outside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use drill::fake_api::Model;
use drill::fake_api::log::RequestLog;
use drill::fake_api::marker::Marker;
use drill::fake_metadata::Metadata;
use drill::session_file::transcript_marks;
use drill::verify::records::{Evidence, LostRecord, count};
use serde_json::Value;

use super::machine::{BOOT_LIMIT, DataDisk, Disks, LIMIT, Machine};

/// The port of the metadata server.
const METADATA_PORT: u16 = 80;

/// The port of the fake API, to which the machine's loopback leads: see `scripts/vm-image`.
const MODEL_PORT: u16 = 8090;

/// The start-up script of the first machine.
const FIRST: &str = "#!/bin/sh
export HOME=/root
exec /payload/spotkeep setup --disk claude-persist --user agent --claude /payload/claude --yes
";

/// How long the whole fleet may take from the start of a boot until all agents work.
const BACK_LIMIT: Duration = Duration::from_secs(240);

/// The fleet, and everything outside of the machine.
pub struct Fleet {
    pub metadata: Metadata,
    model: Model,
    disks: Disks,
    names: Vec<String>,
    sessions: BTreeMap<String, String>,
    at_cut: RequestLog,
    /// The records that were missing after an earlier cut or an agent's end, or were sent too late.
    gone: BTreeSet<Marker>,
}

impl Fleet {
    /// Prepares the disks for the test of this name, without starting a machine.
    pub fn new(test: &str) -> Self {
        let disks = Disks::new(test);
        // A release build if there is one, because an emulated processor is slow.
        let program = std::env::var("SPOTKEEP_VM_PROGRAM");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_spotkeep").to_owned());
        disks.hand_over(FIRST, Some(Path::new(&program)));
        Self {
            metadata: Metadata::start_at(METADATA_PORT).unwrap(),
            model: Model::start_at(MODEL_PORT).unwrap(),
            disks,
            names: Vec::new(),
            sessions: BTreeMap::new(),
            at_cut: RequestLog::default(),
            gone: BTreeSet::new(),
        }
    }

    /// Starts a new machine in the next boot, without a notice.
    pub fn power_on(&mut self, disk: DataDisk) -> Machine {
        self.model.next_boot();
        self.metadata.withdraw();
        self.disks.power_on(disk)
    }

    /// Makes a boot disk that all later machines use and that keeps their changes.
    pub fn keep_the_boot_disk(&mut self) {
        self.disks.keep_the_boot_disk();
    }

    /// Removes the start-up script from all later boots: only the units on the boot disk run.
    pub fn without_a_startup_script(&mut self) {
        self.disks.hand_over("#!/bin/sh\n", None);
    }

    /// The agents in `status --json`, by name.
    pub fn agents(&self, machine: &mut Machine) -> BTreeMap<String, Value> {
        let status = machine.must("spotkeep --data-dir /mnt/persist status --json");
        let status: Value = serde_json::from_str(&status).unwrap();
        let agents = status["agents"].as_array().unwrap().iter();
        agents
            .map(|agent| (agent["name"].as_str().unwrap().to_owned(), agent.clone()))
            .collect()
    }

    /// Sets the machine up, and starts agents that are in a turn at every cut: half of them write
    /// without a pause, half are in a tool that never ends, and after the note in another one.
    pub fn set_up(&mut self, machine: &mut Machine, agents: usize) {
        let state = "systemctl show -P ActiveState startup-script";
        let ended = machine.until("the first set-up", BOOT_LIMIT, state, |left| {
            ["active", "failed"]
                .into_iter()
                .find(|end| left.text.trim() == *end)
        });
        let printed = machine.must("journalctl -b -u startup-script -o cat --no-pager");
        assert_eq!(ended, "active", "{printed}");
        let script = printed
            .lines()
            .skip_while(|line| *line != "#!/bin/sh")
            .take(2);
        let start_up: String = script.map(|line| format!("{line}\n")).collect();
        self.names = (1..=agents)
            .map(|number| format!("agent-{number}"))
            .collect();
        let mut declared = String::new();
        let mut script = String::from("set -e\nexport SPOTKEEP_DATA_DIR=/mnt/persist\n");
        for (number, name) in self.names.iter().enumerate() {
            let plan = ["steady", "hold"][number % 2];
            declared += &format!(
                "[agents.{name}]\nworkspace = \"workspaces/{name}\"\nprompt = \"DRILL agent={name} \
                 plan={plan} [[{name}:p:1]]\"\n"
            );
            script += &format!(
                "runuser -u agent -- sh -ec 'mkdir /mnt/persist/workspaces/{name}; cd \
                 /mnt/persist/workspaces/{name}; \
                 git init -q -b main; git config user.name Drill; git config user.email \
                 drill@localhost; \
                 echo committed >tracked.txt; git add .; git commit -qm first; echo changed \
                 >tracked.txt; echo staged >staged.txt; git add staged.txt'\n"
            );
        }
        script += &format!(
            "runuser -u agent -- tee /mnt/persist/spotkeep.toml >/dev/null <<'END'
[defaults]
args = [\"--dangerously-skip-permissions\"]
memory_max = \"64M\"
env = {{ ANTHROPIC_BASE_URL = \"http://127.0.0.1:{MODEL_PORT}\", ANTHROPIC_API_KEY \
= \"lab-key-that-opens-nothing\" }}
{declared}
END
runuser -u agent -- spotkeep up
"
        );
        machine.must(&script);
        // Later boots run the start-up script that setup has printed.
        self.disks.hand_over(&start_up, None);
    }

    /// Waits until each agent has sent or received records in this boot.
    pub fn wait_until_at_work(&mut self, machine: &mut Machine) {
        let names = self.names.clone();
        let before = self.at_cut.clone();
        let at_work = |request_log: &RequestLog| {
            names.iter().all(|name| {
                let said = |request_log: &RequestLog| {
                    request_log
                        .agents
                        .get(name)
                        .map_or(0, |agent| agent.records.len())
                };
                said(request_log) >= said(&before) + 3
                    || request_log
                        .agents
                        .get(name)
                        .is_some_and(|agent| agent.open.is_some() && said(request_log) > 1)
            })
        };
        if !self.model.wait(BACK_LIMIT, at_work) {
            panic!("not every agent is at work:\n{}", machine_status(machine));
        }
    }

    /// Waits until the fake API has counted `more` records, of any agents.
    pub fn wait_for_more_records(&self, more: usize) {
        let total = |request_log: &RequestLog| {
            request_log
                .agents
                .values()
                .map(|agent| agent.records.len())
                .sum::<usize>()
        };
        let enough = total(&self.model.request_log()) + more;
        assert!(
            self.model
                .wait(LIMIT, |request_log| total(request_log) >= enough),
            "no agent writes"
        );
    }

    /// Takes the request log at the end of a machine: its records must not be lost.
    pub fn machine_is_gone(&mut self) {
        self.at_cut = self.model.request_log();
    }

    /// The number of records at the end of the last machine.
    pub fn records(&self) -> usize {
        self.at_cut
            .agents
            .values()
            .map(|agent| agent.records.len())
            .sum()
    }

    /// The records from before `cut` that are not on the disk and were not missing at an earlier
    /// cut.
    pub fn losses_on_the_disk(&mut self, cut: Instant) -> Vec<LostRecord> {
        let (names, request_log, gone) = (&self.names, &self.at_cut, &self.gone);
        let (losses, missing, sessions) = self.disks.read_data_disk(|data_dir| {
            let (mut losses, mut missing) = (Vec::new(), Vec::new());
            let mut sessions = BTreeMap::new();
            for name in names {
                let path = data_dir
                    .join("session-state/agents")
                    .join(format!("{name}.json"));
                let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let session = record["session_id"].as_str().unwrap().to_owned();
                let transcript = transcript_marks(&data_dir.join(".claude"), &session);
                let evidence = Evidence {
                    records: &request_log.agents[name].records,
                    resumed: None,
                    transcript: &transcript,
                };
                losses.extend(lost_now(&evidence, cut, gone));
                missing.extend(lost_now(&evidence, Instant::now(), gone));
                sessions.insert(name.clone(), session);
            }
            (losses, missing, sessions)
        });
        self.gone
            .extend(missing.into_iter().map(|lost| lost.marker));
        if !self.sessions.is_empty() {
            assert_eq!(
                self.sessions, sessions,
                "an agent has another session than before"
            );
        }
        self.sessions = sessions;
        losses
    }

    /// Tells the fake API that an agent has ended, so that each agent's next request is its first.
    pub fn an_agent_has_ended(&self) {
        self.model.next_boot();
    }

    /// The records from before the end of an agent, at `ended`, that are not in the conversation
    /// that it was resumed with. They are not counted again at a later cut.
    pub fn losses_at_its_end(
        &mut self,
        machine: &mut Machine,
        name: &str,
        ended: Instant,
    ) -> Vec<LostRecord> {
        let resumed = |request_log: &RequestLog| request_log.agents[name].first.is_some();
        if !self.model.wait(BACK_LIMIT, resumed) {
            panic!("{name} sent no request:\n{}", machine_status(machine));
        }
        let account = self.model.request_log().agents.remove(name).unwrap();
        let first = account.first.unwrap();
        assert!(first.note.is_some(), "{name} got no note");
        let session = &self.sessions[name];
        let marks =
            format!("grep -ho '\\[\\[[^]]*]]' /mnt/persist/.claude/projects/*/{session}.jsonl");
        let transcript = Marker::all_in(&machine.must(&marks)).collect();
        let evidence = Evidence {
            records: &account.records,
            resumed: Some(&first.markers),
            transcript: &transcript,
        };
        let losses = lost_now(&evidence, ended, &self.gone);
        // Until the first request of the new process, the fake API may have sent records to the old
        // one.
        let missing = lost_now(&evidence, first.at, &self.gone);
        self.gone
            .extend(missing.into_iter().map(|lost| lost.marker));
        losses
    }

    /// The manifest of the last save, read from the disk.
    pub fn last_save(&self) -> Value {
        self.disks.read_data_disk(|data_dir| {
            let saves = std::fs::read_dir(data_dir.join("session-state/saves")).unwrap();
            let newest = saves.map(|entry| entry.unwrap().path()).max().unwrap();
            serde_json::from_slice(&std::fs::read(newest).unwrap()).unwrap()
        })
    }

    /// Waits until every agent has resumed its session and goes on with its turn.
    pub fn wait_until_back(&mut self, machine: &mut Machine) {
        let names = self.names.clone();
        let before = self.at_cut.clone();
        let back = |request_log: &RequestLog| {
            names.iter().all(|name| {
                request_log.agents.get(name).is_some_and(|agent| {
                    let went_on = agent.continued > before.agents[name].continued;
                    agent.first.is_some() && (went_on || agent.open.is_some())
                })
            })
        };
        if !self.model.wait(BACK_LIMIT, back) {
            panic!("not every agent went on:\n{}", machine_status(machine));
        }
        for (name, agent) in self.agents(machine) {
            assert_eq!(agent["session_id"], *self.sessions[&name], "{agent}");
        }
        // Each agent's first request has a note.
        let request_log = self.model.request_log();
        for name in &self.names {
            let first = request_log.agents[name].first.as_ref().unwrap();
            assert!(first.note.is_some(), "{name} got no note");
        }
    }
}

/// The records that `cut` lost, without those that an earlier one lost.
fn lost_now(evidence: &Evidence<'_>, cut: Instant, gone: &BTreeSet<Marker>) -> Vec<LostRecord> {
    let mut lost = count(evidence, cut).lost;
    lost.retain(|lost| !gone.contains(&lost.marker));
    lost
}

/// The status, the last events and the system log, for the message of a failed test.
fn machine_status(machine: &mut Machine) -> String {
    let ask = "spotkeep --data-dir /mnt/persist status; spotkeep --data-dir /mnt/persist events | \
               tail -30; \
               journalctl -b --no-pager | tail -60";
    machine.run(ask, LIMIT).text
}
