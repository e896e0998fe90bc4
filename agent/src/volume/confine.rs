//! What a child gives up before it touches a volume: every file but the volume, its scratch and the machine's certificates; every
//! server but the port of its bucket; and system calls that no backup needs.
//!
//! A volume's tree is untrusted bytes. Whoever found a way through the code that reads it would hold one volume, one key for a
//! single run, and nothing of the node.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::job::{Job, Task};

/// What is read beside the volume, where it is there: names of hosts, certificates, time zones, the processor's features.
const READ: [&str; 8] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/usr/share/ca-certificates",
    "/proc/self",
    "/dev/urandom",
];

/// System calls that answer EPERM.
const DENIED: [(i64, &str); 26] = [
    (304, "open_by_handle_at"),
    (165, "mount"),
    (166, "umount2"),
    (155, "pivot_root"),
    (161, "chroot"),
    (272, "unshare"),
    (308, "setns"),
    (101, "ptrace"),
    (310, "process_vm_readv"),
    (311, "process_vm_writev"),
    (321, "bpf"),
    (298, "perf_event_open"),
    (246, "kexec_load"),
    (320, "kexec_file_load"),
    (175, "init_module"),
    (313, "finit_module"),
    (176, "delete_module"),
    (248, "add_key"),
    (249, "request_key"),
    (250, "keyctl"),
    (428, "open_tree"),
    (429, "move_mount"),
    (430, "fsopen"),
    (432, "fsmount"),
    (442, "mount_setattr"),
    (323, "userfaultfd"),
];

/// Confines this process, whose working directory is the volume. No thread may exist yet.
pub fn confine(job: &Job) -> Result<()> {
    files_and_ports(job).context("cannot confine this process to the volume")?;
    calls().context("cannot filter system calls")
}

fn files_and_ports(job: &Job) -> Result<()> {
    let abi = ABI::V5;
    let read = AccessFs::from_read(abi);
    let volume = match job.task {
        Task::Backup { .. } => read,
        Task::Restore { .. } => AccessFs::from_all(abi),
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::ConnectTcp | AccessNet::BindTcp)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(".")?, volume))?
        .add_rule(PathBeneath::new(PathFd::new(&job.scratch)?, AccessFs::from_all(abi)))?
        .add_rule(NetPort::new(port(job)?, AccessNet::ConnectTcp))?
        // Names are asked for by TCP where an answer is long.
        .add_rule(NetPort::new(53, AccessNet::ConnectTcp))?;
    for path in READ.iter().filter(|path| Path::new(path).exists()) {
        let access = if Path::new(path).is_dir() { read } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => {
            eprintln!("copal-agent: this kernel has no Landlock: the run is confined by its rights alone");
            Ok(())
        }
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

fn port(job: &Job) -> Result<u16> {
    let Some(endpoint) = &job.grant.endpoint else { return Ok(443) };
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(|| anyhow!("{endpoint} is no URL"))?;
    let host = rest.split('/').next().unwrap_or(rest);
    match host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((_, port)) => port.parse().with_context(|| format!("{endpoint} has no good port")),
        None if scheme == "http" => Ok(80),
        None => Ok(443),
    }
}

fn calls() -> Result<()> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    if arch != TargetArch::x86_64 {
        eprintln!("copal-agent: system calls are not filtered on this architecture");
        return Ok(());
    }
    let rules: BTreeMap<i64, _> = DENIED.iter().map(|(number, _)| (*number, Vec::new())).collect();
    let denied = SeccompAction::Errno(1);
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?.try_into()?;
    seccompiler::apply_filter(&filter)?;
    Ok(())
}
