package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type node struct {
	csi.UnimplementedNodeServer
	images *images
	name   string
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	here := &csi.Topology{Segments: map[string]string{topologyKey: n.name}}
	return &csi.NodeGetInfoResponse{NodeId: n.name, AccessibleTopology: here}, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		rpc := &csi.NodeServiceCapability_RPC{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}})
	}
	return answer, nil
}

// NodeStageVolume attaches the image and, unless it is wanted raw, mounts its file system, made now if there is none.
func (n *node) NodeStageVolume(_ context.Context, request *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	n.images.Lock()
	defer n.images.Unlock()
	if _, err := n.images.find(request.VolumeId); err != nil {
		return nil, answer(err)
	}
	device, err := n.images.attach(request.VolumeId)
	if err != nil {
		return nil, answer(err)
	}
	wanted := request.VolumeCapability.GetMount()
	if wanted == nil || mounted(request.StagingTargetPath) {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	if err := format(device, wanted.FsType); err != nil {
		return nil, answer(err)
	}
	return &csi.NodeStageVolumeResponse{}, answer(mount(device, request.StagingTargetPath, options(device, wanted.MountFlags)))
}

func (n *node) NodeUnstageVolume(_ context.Context, request *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	n.images.Lock()
	defer n.images.Unlock()
	if mounted(request.StagingTargetPath) {
		if err := command("umount", request.StagingTargetPath); err != nil {
			return nil, answer(err)
		}
	}
	return &csi.NodeUnstageVolumeResponse{}, answer(n.images.detach(request.VolumeId))
}

// NodePublishVolume binds the staged file system, or the device itself, to where the pod finds it.
func (n *node) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	n.images.Lock()
	defer n.images.Unlock()
	if mounted(request.TargetPath) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	from, how := request.StagingTargetPath, []string{"bind"}
	if request.VolumeCapability.GetBlock() != nil {
		device, err := n.images.attach(request.VolumeId)
		if err != nil {
			return nil, answer(err)
		}
		from = device
		if err := touch(request.TargetPath); err != nil {
			return nil, answer(err)
		}
	} else if err := os.MkdirAll(request.TargetPath, 0o750); err != nil {
		return nil, answer(err)
	}
	if request.Readonly {
		how = append(how, "ro")
	}
	return &csi.NodePublishVolumeResponse{}, answer(mount(from, request.TargetPath, how))
}

func (n *node) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	n.images.Lock()
	defer n.images.Unlock()
	if mounted(request.TargetPath) {
		if err := command("umount", request.TargetPath); err != nil {
			return nil, answer(err)
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, answer(unlessAbsent(os.Remove(request.TargetPath)))
}

// NodeGetVolumeStats says how full a file system is; a raw device only has a size.
func (n *node) NodeGetVolumeStats(_ context.Context, request *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	found, err := n.images.find(request.VolumeId)
	if err != nil {
		return nil, answer(err)
	}
	place, err := os.Stat(request.VolumePath)
	if err != nil {
		return nil, answer(err)
	}
	if !place.IsDir() {
		size := &csi.VolumeUsage{Unit: csi.VolumeUsage_BYTES, Total: found.Bytes}
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{size}}, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(request.VolumePath, &fs); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	block := fs.Bsize
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(fs.Blocks) * block, Available: int64(fs.Bavail) * block, Used: int64(fs.Blocks-fs.Bfree) * block},
		{Unit: csi.VolumeUsage_INODES, Total: int64(fs.Files), Available: int64(fs.Ffree), Used: int64(fs.Files - fs.Ffree)},
	}}, nil
}

func mounted(path string) bool {
	return exec.Command("mountpoint", "--quiet", path).Run() == nil || deviceNode(path)
}

// deviceNode: mountpoint(1) knows directories only; a raw device is bound to a file.
func deviceNode(path string) bool {
	found, err := os.Stat(path)
	return err == nil && found.Mode()&os.ModeDevice != 0
}

// format makes a file system on a device that has none.
func format(device, kind string) error {
	if hasFileSystem(device) {
		return nil
	}
	if kind == "" {
		kind = "ext4"
	}
	quiet := map[string]string{"ext4": "-q", "xfs": "-q"}[kind]
	return command("mkfs."+kind, quiet, device)
}

func hasFileSystem(device string) bool { return exec.Command("blkid", "--probe", device).Run() == nil }

// options of a mount: a copy of an XFS has its original's id, which the kernel refuses to mount twice unless told.
func options(device string, wanted []string) []string {
	kind, _ := exec.Command("blkid", "--probe", "--match-tag", "TYPE", "--output", "value", device).Output()
	if strings.TrimSpace(string(kind)) == "xfs" {
		return append(wanted, "nouuid")
	}
	return wanted
}

func mount(from, to string, how []string) error {
	if len(how) == 0 {
		return command("mount", from, to)
	}
	return command("mount", "-o", strings.Join(how, ","), from, to)
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE, 0o660)
	if err != nil {
		return err
	}
	return file.Close()
}
