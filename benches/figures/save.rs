//! Figure 2: the time from the notice to safe, with half of a large fleet in a tool.

use sys::error::{Context as _, Result};

use super::fleet::Fleet;
use super::options::Options;
use super::place::progress;
use super::stats::Sample;
use super::table::Figure;

/// The limit, in milliseconds beyond the exit of the slowest agent.
const MUST: f64 = 300.0;

/// Measures with an idle fleet. Each round is a boot in which half of the agents run a tool.
pub fn measure(fleet: &mut Fleet, options: &Options) -> Result<Figure> {
    let workers: Vec<String> = fleet.names.iter().step_by(2).cloned().collect();
    let (mut over, mut safe, mut exit) = (Sample::default(), Sample::default(), Sample::default());
    let (mut transcripts, mut ended) = (Sample::default(), Sample::default());
    fleet.set_to_work(&workers)?;
    let rounds = options.times(5, 1);
    for round in 0..rounds {
        if round > 0 {
            fleet.boot()?;
        }
        fleet.wait_until_at_work(&workers)?;
        let preempted = fleet.preempt()?;
        progress(&format!("preemption {} of {rounds}", round + 1));
        let save = preempted.manifest;
        let slowest = save.agents.iter().filter_map(|agent| agent.exit_ms).max();
        let slowest = float(slowest.context("no agent ended")?)?;
        let to_save = float(preempted.to_save_ms)?;
        let stage =
            |at: Option<u64>| Ok::<_, sys::error::Error>(float(at.context("not safe")?)? + to_save);
        let to_safe = stage(save.stages.notice_to_safe_ms)?;
        over.push(to_safe - slowest);
        safe.push(to_safe);
        exit.push(slowest);
        ended.push(stage(save.stages.agents_ended_ms)? - slowest);
        transcripts.push(stage(save.stages.transcripts_safe_ms)? - slowest);
    }
    Ok(Figure {
        number: 2,
        name: format!(
            "notice to safe, {} agents, half in a tool, over the slowest exit",
            fleet.names.len()
        ),
        must: format!("{MUST} ms"),
        measured: over.text(" ms", 0),
        reached: Some(over.median() <= MUST),
        how: format!(
            "{} boots on a separate ext4; notice to safe {}, the slowest agent's exit {}; over it, \
             all have ended after {}, transcripts are safe after {}",
            over.len(),
            safe.text(" ms", 0),
            exit.text(" ms", 0),
            ended.text(" ms", 0),
            transcripts.text(" ms", 0),
        ),
    })
}

fn float(millis: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(millis)?))
}
