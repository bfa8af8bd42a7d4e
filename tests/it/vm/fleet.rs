//! The agents of the machines, and what is outside of them: the model that they talk to and that counts
//! what was said, the metadata server, the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use drill::fake_api::Model;
use drill::fake_api::log::RequestLog;
use drill::fake_api::marker::Marker;
use drill::fake_metadata::Metadata;
use drill::session_file::transcript_marks;
use drill::verify::records::{Evidence, Lost, count};
use serde_json::Value;

use super::machine::{BOOT_LIMIT, DataDisk, Garage, LIMIT, Machine};

/// Where the metadata server of a cloud's machine listens.
const METADATA_PORT: u16 = 80;

/// Where the machine's loopback leads to: see `scripts/vm-image`.
const MODEL_PORT: u16 = 8090;

/// What is run by hand on the first machine.
const FIRST: &str = "#!/bin/sh
export HOME=/root
exec /payload/spotkeep setup --disk claude-persist --user agent --claude /payload/claude --yes
";

/// How long the whole fleet may take from a boot disk's first sector to work.
const BACK_LIMIT: Duration = Duration::from_secs(240);

/// Everything outside of the machine.
pub struct Fleet {
    pub metadata: Metadata,
    model: Model,
    garage: Garage,
    names: Vec<String>,
    sessions: BTreeMap<String, String>,
    at_cut: RequestLog,
    /// What was missing after some cut or an agent's own end, or was said to what was off already.
    gone: BTreeSet<Marker>,
}

impl Fleet {
    /// For the test of this name, without a machine.
    pub fn new(test: &str) -> Self {
        let garage = Garage::new(test);
        // An optimized one, where there is one: an emulated processor is slow enough.
        let program = std::env::var("SPOTKEEP_VM_PROGRAM");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_spotkeep").to_owned());
        garage.hand_over(FIRST, Some(Path::new(&program)));
        Self {
            metadata: Metadata::start_at(METADATA_PORT).unwrap(),
            model: Model::start_at(MODEL_PORT).unwrap(),
            garage,
            names: Vec::new(),
            sessions: BTreeMap::new(),
            at_cut: RequestLog::default(),
            gone: BTreeSet::new(),
        }
    }

    /// A new machine in the next boot, of which the cloud has said nothing yet.
    pub fn power_on(&mut self, disk: DataDisk) -> Machine {
        self.model.next_boot();
        self.metadata.withdraw();
        self.garage.power_on(disk)
    }

    /// From now on there is one boot disk, which outlives its machines; the next one is its first.
    pub fn keep_the_boot_disk(&mut self) {
        self.garage.keep_the_boot_disk();
    }

    /// From now on the cloud runs nothing at a boot: what is on the boot disk has to do.
    pub fn without_a_startup_script(&mut self) {
        self.garage.hand_over("#!/bin/sh\n", None);
    }

    /// What the keeper says of each agent, by name.
    pub fn agents(&self, machine: &mut Machine) -> BTreeMap<String, Value> {
        let status = machine.must("spotkeep --data-dir /mnt/persist status --json");
        let status: Value = serde_json::from_str(&status).unwrap();
        let agents = status["agents"].as_array().unwrap().iter();
        agents
            .map(|agent| (agent["name"].as_str().unwrap().to_owned(), agent.clone()))
            .collect()
    }

    /// The first set-up, and agents that are at work whenever they are cut: half of them write without a
    /// pause, half are in a tool that never ends, and after the note in another one.
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
                "[agents.{name}]\nworkspace = \"workspaces/{name}\"\nprompt = \"DRILL agent={name} plan={plan} [[{name}:p:1]]\"\n"
            );
            script += &format!(
                "runuser -u agent -- sh -ec 'mkdir /mnt/persist/workspaces/{name}; cd /mnt/persist/workspaces/{name}; \
                 git init -q -b main; git config user.name Drill; git config user.email drill@localhost; \
                 echo committed >tracked.txt; git add .; git commit -qm first; echo changed >tracked.txt; echo staged >staged.txt; git add staged.txt'\n"
            );
        }
        script += &format!(
            "runuser -u agent -- tee /mnt/persist/spotkeep.toml >/dev/null <<'END'
[defaults]
args = [\"--dangerously-skip-permissions\"]
memory_max = \"64M\"
env = {{ ANTHROPIC_BASE_URL = \"http://127.0.0.1:{MODEL_PORT}\", ANTHROPIC_API_KEY = \"lab-key-that-opens-nothing\" }}
{declared}
END
runuser -u agent -- spotkeep up
"
        );
        machine.must(&script);
        // From now on there is what the set-up has printed, and the disk.
        self.garage.hand_over(&start_up, None);
    }

    /// Until each agent has said something in this boot, and those that write go on writing.
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
            panic!("not every agent came to work:\n{}", how_it_stands(machine));
        }
    }

    /// Until so many more records have been said, by whomever.
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
            "nobody writes"
        );
    }

    /// What was said until now is what must come back.
    pub fn machine_is_gone(&mut self) {
        self.at_cut = self.model.request_log();
    }

    /// How many records there are to lose.
    pub fn records(&self) -> usize {
        self.at_cut
            .agents
            .values()
            .map(|agent| agent.records.len())
            .sum()
    }

    /// What was said before `cut`, is not on the disk, and was not missing at an earlier cut either.
    pub fn losses_on_the_disk(&mut self, cut: Instant) -> Vec<Lost> {
        let (names, request_log, gone) = (&self.names, &self.at_cut, &self.gone);
        let (losses, missing, sessions) = self.garage.look_at_the_data(|data_dir| {
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

    /// One of the agents has ended, and the machine has not: each one's next request is its first.
    pub fn an_agent_has_ended(&self) {
        self.model.next_boot();
    }

    /// What was said before an agent's own end, which had come by `ended`, and is not in the
    /// conversation that it was resumed with. What that end cost counts here, and at no later cut.
    pub fn losses_at_its_end(
        &mut self,
        machine: &mut Machine,
        name: &str,
        ended: Instant,
    ) -> Vec<Lost> {
        let resumed = |request_log: &RequestLog| request_log.agents[name].first.is_some();
        if !self.model.wait(BACK_LIMIT, resumed) {
            panic!("{name} asked nothing:\n{}", how_it_stands(machine));
        }
        let account = self.model.request_log().agents.remove(name).unwrap();
        let first = account.first.unwrap();
        assert!(first.note.is_some(), "{name} was told nothing");
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
        // Until the first request of the new process, the model may have gone on to the old one.
        let missing = lost_now(&evidence, first.at, &self.gone);
        self.gone
            .extend(missing.into_iter().map(|lost| lost.marker));
        losses
    }

    /// The manifest of the last save, read from the disk.
    pub fn last_save(&self) -> Value {
        self.garage.look_at_the_data(|data_dir| {
            let saves = std::fs::read_dir(data_dir.join("session-state/saves")).unwrap();
            let newest = saves.map(|entry| entry.unwrap().path()).max().unwrap();
            serde_json::from_slice(&std::fs::read(newest).unwrap()).unwrap()
        })
    }

    /// Until every agent has come back to its session, with all that the disk had kept, and goes on.
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
            panic!("not every agent went on:\n{}", how_it_stands(machine));
        }
        for (name, agent) in self.agents(machine) {
            assert_eq!(agent["session_id"], *self.sessions[&name], "{agent}");
        }
        // What came back over the wire holds all that was on the disk.
        let request_log = self.model.request_log();
        for name in &self.names {
            let first = request_log.agents[name].first.as_ref().unwrap();
            assert!(first.note.is_some(), "{name} was told nothing");
        }
    }
}

/// What `cut` cost, without what an earlier one had.
fn lost_now(evidence: &Evidence<'_>, cut: Instant, gone: &BTreeSet<Marker>) -> Vec<Lost> {
    let mut lost = count(evidence, cut).lost;
    lost.retain(|lost| !gone.contains(&lost.marker));
    lost
}

/// For a human who has to find out why nothing moves.
fn how_it_stands(machine: &mut Machine) -> String {
    let ask = "spotkeep --data-dir /mnt/persist status; spotkeep --data-dir /mnt/persist events | tail -30; \
               journalctl -b --no-pager | tail -60";
    machine.run(ask, LIMIT).text
}
