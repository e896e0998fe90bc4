//! `snapshots`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use clap::Args;
use copal_engine::format::node::Timestamp;
use copal_engine::format::snapshot::{Counts, NamesPart};
use copal_engine::ops::forget::{GroupBy, GroupKey, Record};
use copal_engine::repo::{Committed, Snapshot};
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::open::Context;
use crate::output::{lossy, shown, table, write_line};
use crate::select::{Filter, choose};
use crate::{group, size, time};

/// Flags of `snapshots`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotsArgs {
    /// Only these: beginnings of ids, latest, or latest~N
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Which snapshots.
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only the last N of each host and paths
    #[arg(long, value_name = "N")]
    pub(crate) latest: Option<usize>,
    /// Group by host, paths and tags, or some of them
    #[arg(short, long, value_name = "host,paths,tags")]
    pub(crate) group_by: Option<String>,
    /// Show short lines: no paths
    #[arg(short, long)]
    pub(crate) compact: bool,
}

/// The snapshots of each group, in the order in which they are given.
fn groups<'s>(by: GroupBy, snapshots: &[&'s Snapshot]) -> BTreeMap<GroupKey, Vec<&'s Snapshot>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    snapshots.iter().for_each(|s| groups.entry(by.key(&Record::of(s))).or_default().push(*s));
    groups
}

/// Lists snapshots.
pub(crate) fn run(context: &Context, args: &SnapshotsArgs) -> Result<Outcome> {
    let by = args.group_by.as_deref().map(group::parse).transpose()?;
    let repo = context.repository()?;
    let Committed { snapshots: all, forgotten, problems, .. } = repo.committed()?;
    problems.iter().for_each(|p| context.out.warn(p.to_string()));
    let mut chosen = choose(&all, &forgotten, &args.ids, &args.filter)?;
    if let Some(latest) = args.latest {
        let keep = groups(GroupBy { host: true, paths: true, tags: false }, &chosen);
        let kept: Vec<_> = keep.values().flat_map(|group| group.iter().rev().take(latest)).map(|s| s.id()).collect();
        chosen.retain(|s| kept.contains(&s.id()));
    }
    let mut out = context.out.stdout();
    match (context.out.json, by) {
        (true, None) => write_line(&mut out, &chosen.iter().map(|s| to_json(s)).collect::<Vec<_>>())?,
        (true, Some(by)) => write_line(&mut out, &groups(by, &chosen).iter().map(group_json).collect::<Vec<_>>())?,
        (false, None) => print(&mut out, &chosen, args.compact)?,
        (false, Some(by)) => {
            for (key, members) in groups(by, &chosen) {
                writeln!(out, "{}", group::title(by, &key))?;
                print(&mut out, &members, args.compact)?;
                writeln!(out)?;
            }
        }
    }
    out.flush()?;
    Ok(Outcome::of_problems(problems.len() as u64))
}

fn group_json((key, members): (&GroupKey, &Vec<&Snapshot>)) -> Value {
    let (host, paths, tags) = group::fields(key);
    json!({
        "group_key": {"hostname": host, "paths": paths, "tags": tags},
        "snapshots": members.iter().map(|s| to_json(s)).collect::<Vec<_>>(),
    })
}

fn print(out: &mut impl Write, snapshots: &[&Snapshot], compact: bool) -> Result<()> {
    let empty = NamesPart::default();
    let head: &[&str] =
        if compact { &["ID", "Time", "Host", "Tags"] } else { &["ID", "Time", "Host", "Tags", "Size", "Paths"] };
    let rows: Vec<Vec<String>> = snapshots
        .iter()
        .map(|s| {
            let names = s.names.as_ref().unwrap_or(&empty);
            let list = |list: &[Vec<u8>], with: &str| list.iter().map(|t| shown(t)).collect::<Vec<_>>().join(with);
            let note = if names.counts.problems > 0 { "!" } else { "" };
            let mut row = vec![
                format!("{}{note}", s.id().short()),
                time::short(s.graph.time),
                shown(&names.host),
                list(&names.labels, ","),
                s.names.as_ref().map(|n| size::show(n.counts.bytes)).unwrap_or_default(),
                list(&names.paths, "  "),
            ];
            row.truncate(head.len());
            row
        })
        .collect();
    table(out, head, &rows)?;
    writeln!(out, "{} snapshots", snapshots.len())?;
    if snapshots.iter().any(|s| s.names.as_ref().is_some_and(|n| n.counts.problems > 0)) {
        writeln!(out, "! something was skipped or changed while it was read: copal cat snapshot ID lists it")?;
    }
    Ok(())
}

/// A snapshot with restic's fields, and ours.
pub(crate) fn to_json(snapshot: &Snapshot) -> Value {
    let graph = &snapshot.graph;
    let id = snapshot.id().to_string();
    let mut value = json!({
        "schema": 1, "id": id, "short_id": id[..8], "time": time::rfc3339(graph.time),
        "tree": graph.root.map(|root| root.to_string()), "writer": snapshot.at.writer.to_string(),
    });
    if let Some(parent) = graph.previous {
        value["parent"] = parent.to_string().into();
    }
    if let Some(original) = graph.original {
        value["original"] = original.to_string().into();
    }
    if let Some(names) = &snapshot.names {
        let list = |list: &[Vec<u8>]| list.iter().map(|t| lossy(t)).collect::<Vec<_>>();
        value["paths"] = list(&names.paths).into();
        value["hostname"] = lossy(&names.host).into();
        value["username"] = lossy(&names.user).into();
        (value["uid"], value["gid"]) = (names.uid_gid.0.into(), names.uid_gid.1.into());
        value["tags"] = list(&names.labels).into();
        value["program_version"] = lossy(&names.program).into();
        value["problems"] = names.counts.problems.into();
        value["summary"] = summary_json(graph.time, &names.counts);
    }
    value
}

fn summary_json(start: Timestamp, c: &Counts) -> Value {
    let end = Timestamp { secs: start.secs.saturating_add((c.millis / 1000) as i64), nanos: start.nanos };
    json!({
        "backup_start": time::rfc3339(start), "backup_end": time::rfc3339(end),
        "files_new": c.files[0], "files_changed": c.files[1], "files_unmodified": c.files[2],
        "dirs_new": c.dirs[0], "dirs_changed": c.dirs[1], "dirs_unmodified": c.dirs[2],
        "data_blobs": c.blobs[0], "tree_blobs": c.blobs[1],
        "data_added": c.added, "data_added_packed": c.stored,
        "total_files_processed": c.files.iter().sum::<u64>(), "total_bytes_processed": c.bytes,
    })
}
