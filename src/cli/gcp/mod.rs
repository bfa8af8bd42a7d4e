//! `spotkeep gcp`: manages a VM on Google Cloud.

mod args;

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

pub(super) use args::Args;
use args::{Adopt, Create, Delete, HowLong, Machine, Preempt, Ssh, Status, Verb};

use super::output::{complain, json, print_line};
use gcp::create::{CreateResult, Options, Prepared};
use gcp::ssh::FirstTime;
use gcp::vm_spec::{Notice, VmRequest, check_name};
use gcp::{Cloud, Gcloud, adopt, create, delete, preempt, scripts, start_stop, status};
use state::AgentName;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::Timestamp;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    check_name("VM", &args.name)?;
    let show = |line: &str| complain(line);
    let gcloud = Gcloud::new(args.project.clone(), &show)?;
    match &args.verb {
        Verb::Create(create) => self::create(&gcloud, args, create),
        Verb::Adopt(adopt) => self::adopt(&gcloud, args, adopt),
        Verb::Start(only) => start(&gcloud, args, only.dry_run),
        Verb::Stop(only) => stop(&gcloud, args, only.dry_run),
        Verb::Status(status) => self::status(&gcloud, args, status),
        Verb::Ssh(ssh) => self::ssh(&gcloud, args, ssh),
        Verb::Delete(delete) => self::delete(&gcloud, args, delete),
        Verb::Preempt(preempt) => self::preempt(&gcloud, args, preempt),
    }
}

fn options(args: &Args, name: &str, machine: &Machine) -> Result<Options> {
    let binary = match &machine.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    Ok(Options {
        request: VmRequest {
            name: name.to_owned(),
            zone: machine.zone.clone(),
            disk: machine.disk.clone(),
            machine_type: machine.machine_type.clone(),
            notice: machine.notice.map(|notice| match notice {
                HowLong::Auto => Notice::Auto,
                HowLong::Long => Notice::Long,
                HowLong::None => Notice::None,
            }),
            image_family: machine.image_family.clone(),
            image_project: machine.image_project.clone(),
            boot_gb: machine.boot_size,
            service_account: machine.service_account.clone(),
            scopes: machine.scopes.clone(),
            address: machine.no_address.then_some(false),
            network: machine.network.clone(),
            subnet: machine.subnet.clone(),
            ..VmRequest::default()
        },
        project: args.project.clone(),
        first: FirstTime {
            user: machine.user.clone(),
            binary,
            claude: machine.claude.clone(),
            unattended: machine.unattended,
            beside_other_files: false,
        },
        timeout: args.timeout,
    })
}

fn create(cloud: &dyn Cloud, args: &Args, asked: &Create) -> Result<ExitCode> {
    let mut options = options(args, &args.name, &asked.machine)?;
    options.request.size_gb = asked.size;
    options.request.disk_type.clone_from(&asked.disk_type);
    let prepared = create::prepare(cloud, &options)?;
    if asked.machine.dry_run {
        print_line(create::script(&prepared, &options, "create").trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    show_plan(&prepared);
    carry_out(cloud, &prepared, &options)
}

fn adopt(cloud: &dyn Cloud, args: &Args, asked: &Adopt) -> Result<ExitCode> {
    let mut options = options(args, &asked.vm, &asked.machine)?;
    // The agents' work is on that disk already.
    options.first.beside_other_files = true;
    let prepared = adopt::prepare(cloud, &options)?;
    if asked.machine.dry_run {
        print_line(create::script(&prepared, &options, "adopt").trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    show_plan(&prepared);
    agree(
        asked.yes,
        &format!(
            "{} is deleted and created again; its disks are kept.",
            asked.vm
        ),
    )?;
    carry_out(cloud, &prepared, &options)
}

fn show_plan(prepared: &Prepared) {
    if prepared.plan.calls.is_empty() {
        print_line("everything exists already");
    }
    for call in &prepared.plan.calls {
        print_line(&format!("will {}", call.why));
    }
    notes(&prepared.plan.notes);
}

fn notes(notes: &[String]) {
    for note in notes {
        print_line(&format!("note: {note}"));
    }
}

fn carry_out(cloud: &dyn Cloud, prepared: &Prepared, options: &Options) -> Result<ExitCode> {
    Ok(print_created(create::run(cloud, prepared, options)?))
}

/// Prints what the VM reported. The exit code is 3 if something is missing.
fn print_created(outcome: CreateResult) -> ExitCode {
    print_line(&outcome.said);
    match outcome.hint {
        None => ExitCode::SUCCESS,
        Some(hint) => {
            complain(&format!("hint: {hint}"));
            ExitCode::from(ErrorKind::NotAsDeclared as u8)
        }
    }
}

fn start(cloud: &dyn Cloud, args: &Args, dry_run: bool) -> Result<ExitCode> {
    let found = start_stop::discover_vm(cloud, &args.name, args.project.as_deref())?;
    if dry_run {
        return Ok(print_script(
            "start",
            args,
            start_stop::plan_start(&found, &args.name)?.calls,
        ));
    }
    Ok(print_created(start_stop::start(
        cloud,
        &found,
        &args.name,
        args.timeout,
    )?))
}

fn stop(cloud: &dyn Cloud, args: &Args, dry_run: bool) -> Result<ExitCode> {
    let found = start_stop::discover_vm(cloud, &args.name, args.project.as_deref())?;
    if dry_run {
        let calls = start_stop::plan_stop(&found, &args.name)?
            .into_iter()
            .collect();
        return Ok(print_script("stop", args, calls));
    }
    print_line(&start_stop::stop(cloud, &found, &args.name, args.timeout)?);
    Ok(ExitCode::SUCCESS)
}

fn print_script(verb: &str, args: &Args, calls: Vec<gcp::Call>) -> ExitCode {
    let mut parts: Vec<scripts::Part> = calls.into_iter().map(scripts::Part::Call).collect();
    if parts.is_empty() {
        parts.push(scripts::Part::Note("Nothing to do.".to_owned()));
    }
    let title = format!("spotkeep gcp {verb}, by hand: {}.", args.name);
    print_line(scripts::by_hand(&title, &parts).trim_end());
    ExitCode::SUCCESS
}

fn status(cloud: &dyn Cloud, args: &Args, asked: &Status) -> Result<ExitCode> {
    let report = status::gather(cloud, &args.name, args.project.as_deref(), !asked.outside)?;
    if asked.json {
        json(&report)?;
    } else {
        report
            .lines(Timestamp::now())
            .iter()
            .for_each(|line| print_line(line));
    }
    // A VM that the user has stopped is in its desired state.
    let good = matches!(report.state, "running" | "stopped");
    Ok(ExitCode::from(if good {
        0
    } else {
        ErrorKind::NotAsDeclared as u8
    }))
}

fn ssh(gcloud: &Gcloud<'_>, args: &Args, asked: &Ssh) -> Result<ExitCode> {
    let found = start_stop::discover_vm(gcloud, &args.name, args.project.as_deref())?;
    let guest = start_stop::running_guest(&found, &args.name)?;
    let call = guest.terminal(asked.agent.as_ref().map(AgentName::as_str));
    if asked.dry_run {
        print_line(&call.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    gcloud.show(&format!("$ {call}"));
    // From here on ssh uses the terminal.
    Err(anyhow!(gcloud.command(&call).exec()).context("cannot run gcloud"))
}

fn delete(cloud: &dyn Cloud, args: &Args, asked: &Delete) -> Result<ExitCode> {
    let request = VmRequest {
        name: args.name.clone(),
        zone: asked.zone.clone(),
        disk: asked.disk.clone(),
        ..VmRequest::default()
    };
    let plan = delete::prepare(
        cloud,
        &request,
        asked.and_data.as_deref(),
        args.project.as_deref(),
    )?;
    if asked.dry_run {
        return Ok(print_script("delete", args, plan.calls));
    }
    for call in &plan.calls {
        print_line(&format!("will {}", call.why));
    }
    notes(&plan.notes);
    if plan.calls.is_empty() {
        print_line("nothing is left to delete");
        return Ok(ExitCode::SUCCESS);
    }
    agree(asked.yes, &format!("{} is deleted.", args.name))?;
    delete::run(cloud, &plan)?;
    print_line(&format!("{} is deleted", args.name));
    Ok(ExitCode::SUCCESS)
}

fn preempt(cloud: &dyn Cloud, args: &Args, asked: &Preempt) -> Result<ExitCode> {
    let found = start_stop::discover_vm(cloud, &args.name, args.project.as_deref())?;
    let guest = start_stop::running_guest(&found, &args.name)?;
    if asked.dry_run {
        return Ok(print_script("preempt", args, vec![preempt::call(&guest)]));
    }
    agree(
        asked.yes,
        &format!(
            "{} is preempted now: its agents stop, and resume on the next machine.",
            args.name
        ),
    )?;
    let report = preempt::run(cloud, &args.name, &guest, args.timeout)?;
    if asked.json {
        json(&report)?;
    } else {
        report.lines().iter().for_each(|line| print_line(line));
    }
    Ok(ExitCode::from(if report.has_passed() {
        0
    } else {
        ErrorKind::NotAsDeclared as u8
    }))
}

/// Asks for confirmation, unless `yes` is set.
fn agree(yes: bool, what: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    let no = || {
        Err(anyhow!("not done"))
            .hint("add --yes to confirm without a terminal")
            .kind(ErrorKind::Usage)
    };
    if !std::io::stdin().is_terminal() {
        return no();
    }
    write!(std::io::stderr(), "{what} Go on? [y/N] ").ok();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        no()
    }
}
