//! From the kubelet's directory to one volume, by descriptors: nothing a tenant can write is ever a path of ours.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Which volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// Of this PersistentVolume, whatever plugin has mounted it.
    Persistent(String),
    /// The pod's own, by the volume's name.
    EmptyDir(String),
}

/// The kubelet's directory of pods.
pub fn open_pods(path: &std::path::Path) -> Result<OwnedFd> {
    openat2(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
        .with_context(|| format!("cannot open the kubelet's directory {}", path.display()))
}

/// Whether the kubelet has a directory for this pod.
pub fn has_pod(pods: &OwnedFd, uid: &str) -> bool {
    name(uid).is_ok_and(|uid| beneath(pods, uid).is_ok_and(|found| found.is_some()))
}

/// The one directory where this volume of the pod is mounted.
pub fn find(pods: &OwnedFd, uid: &str, sought: &Sought) -> Result<OwnedFd> {
    let volumes = format!("{}/volumes", name(uid)?);
    let Some(volumes) = beneath(pods, &volumes)? else { bail!("the kubelet has no volumes of the pod {uid}") };
    match sought {
        Sought::EmptyDir(volume) => {
            let path = format!("kubernetes.io~empty-dir/{}", name(volume)?);
            beneath(&volumes, &path)?.ok_or_else(|| anyhow!("the pod has no emptyDir {volume}"))
        }
        Sought::Persistent(pv) => {
            let pv = name(pv)?;
            let mut found = Vec::new();
            for plugin in plugins(&volumes)? {
                let path = match plugin.as_str() {
                    "kubernetes.io~csi" => format!("{plugin}/{pv}/mount"),
                    _ => format!("{plugin}/{pv}"),
                };
                found.extend(beneath(&volumes, &path)?);
            }
            match found.len() {
                1 => Ok(found.remove(0)),
                0 => bail!("the volume {pv} is not mounted in the pod (block volumes have no files to read)"),
                n => bail!("{n} plugins have mounted {pv}: it cannot be told which is meant"),
            }
        }
    }
}

/// Names of directories: `kubernetes.io~csi`, `kubernetes.io~local-volume` and so on.
fn plugins(volumes: &OwnedFd) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(volumes).context("cannot list the pod's volumes")? {
        let entry = entry.context("cannot list the pod's volumes")?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(plugin) => names.push(plugin.to_owned()),
        }
    }
    Ok(names)
}

/// A directory below `dir`, by no symlink; `None`: it is not there.
fn beneath(dir: &OwnedFd, path: &str) -> Result<Option<OwnedFd>> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), how) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(anyhow!("cannot open {path} below the kubelet's directory: {e}")),
    }
}

/// A name that is one component of a path.
fn name(text: &str) -> Result<&str> {
    if text.is_empty() || text == "." || text == ".." || text.len() > 253 || text.contains(['/', '\0']) {
        bail!("{text:?} is no name of a directory");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn pods() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("uid/volumes/kubernetes.io~csi/pv/mount")).unwrap();
        fs::create_dir_all(dir.path().join("uid/volumes/kubernetes.io~empty-dir/cache")).unwrap();
        fs::write(dir.path().join("uid/volumes/kubernetes.io~csi/pv/mount/file"), "csi").unwrap();
        fs::create_dir(dir.path().join("secret")).unwrap();
        let pods = open_pods(dir.path()).unwrap();
        (dir, pods)
    }

    fn pv(name: &str) -> Sought {
        Sought::Persistent(name.into())
    }

    #[test]
    fn one_directory_is_found() {
        let (dir, pods) = pods();
        assert!(has_pod(&pods, "uid") && !has_pod(&pods, "other") && !has_pod(&pods, "..") && !has_pod(&pods, ""));
        let found = find(&pods, "uid", &pv("pv")).unwrap();
        assert!(rustix::fs::openat(&found, "file", OFlags::RDONLY, Mode::empty()).is_ok());
        assert!(find(&pods, "uid", &Sought::EmptyDir("cache".into())).is_ok());
        fs::create_dir_all(dir.path().join("local/volumes/kubernetes.io~local-volume/pv")).unwrap();
        assert!(find(&pods, "local", &pv("pv")).is_ok());
    }

    #[test]
    fn none_two_or_a_way_out_is_an_error() {
        let (dir, pods) = pods();
        let volumes = dir.path().join("uid/volumes");
        for (uid, sought) in [
            ("uid", pv("other")),
            ("uid", pv("../../../secret")),
            ("uid", pv("..")),
            ("../uid", pv("pv")),
            ("", pv("pv")),
            ("uid", Sought::EmptyDir("../kubernetes.io~csi".into())),
            ("uid", Sought::EmptyDir("none".into())),
        ] {
            assert!(find(&pods, uid, &sought).is_err(), "{uid} {sought:?}");
        }
        fs::create_dir_all(volumes.join("kubernetes.io~nfs/pv")).unwrap();
        assert!(find(&pods, "uid", &pv("pv")).unwrap_err().to_string().contains("2 plugins"));
        fs::remove_dir_all(volumes.join("kubernetes.io~nfs")).unwrap();
        // A symlink in place of any directory on the way.
        fs::remove_dir_all(volumes.join("kubernetes.io~csi/pv/mount")).unwrap();
        symlink(dir.path().join("secret"), volumes.join("kubernetes.io~csi/pv/mount")).unwrap();
        assert!(find(&pods, "uid", &pv("pv")).is_err());
        symlink(dir.path().join("secret"), volumes.join("kubernetes.io~empty-dir/out")).unwrap();
        assert!(find(&pods, "uid", &Sought::EmptyDir("out".into())).is_err());
        symlink(dir.path().join("uid"), dir.path().join("alias")).unwrap();
        assert!(find(&pods, "alias", &Sought::EmptyDir("cache".into())).is_err());
    }
}
