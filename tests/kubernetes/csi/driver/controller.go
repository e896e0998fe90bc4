package main

import (
	"context"
	"errors"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	mebibyte       = 1 << 20
	bytesDefault   = 1024 * mebibyte
	bytesMin       = 16 * mebibyte
	volumePrefix   = "vol-"
	snapshotPrefix = "snap-"
)

type controller struct {
	csi.UnimplementedControllerServer
	images *images
	node   string
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	} {
		rpc := &csi.ControllerServiceCapability_RPC{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}})
	}
	return answer, nil
}

// CreateVolume makes an empty volume, or one from a snapshot or from another volume. The file system is made where it is first mounted.
func (c *controller) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if request.Name == "" || len(request.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a volume needs a name and capabilities")
	}
	for _, capability := range request.VolumeCapabilities {
		if !supported(capability) {
			return nil, status.Errorf(codes.InvalidArgument, "a volume of one node cannot be %s", capability.GetAccessMode().GetMode())
		}
	}
	c.images.Lock()
	defer c.images.Unlock()
	from, bytes := "", max(request.GetCapacityRange().GetRequiredBytes(), bytesMin)
	if request.GetCapacityRange().GetRequiredBytes() == 0 {
		bytes = bytesDefault
	}
	switch source := request.GetVolumeContentSource(); {
	case source.GetSnapshot() != nil:
		from = source.GetSnapshot().SnapshotId
	case source.GetVolume() != nil:
		from = source.GetVolume().VolumeId
	}
	if from != "" {
		original, err := c.images.find(from)
		if err != nil {
			return nil, answer(err)
		}
		bytes = max(bytes, original.Bytes)
	}
	if limit := request.GetCapacityRange().GetLimitBytes(); limit > 0 && bytes > limit {
		return nil, status.Errorf(codes.OutOfRange, "%d bytes are needed, %d are allowed", bytes, limit)
	}
	volume := id(volumePrefix, request.Name)
	if err := c.images.make(volume, record{Name: request.Name, Bytes: bytes, Source: from}); err != nil {
		return nil, answer(err)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: volume, CapacityBytes: bytes, ContentSource: request.VolumeContentSource,
		AccessibleTopology: []*csi.Topology{{Segments: map[string]string{topologyKey: c.node}}},
	}}, nil
}

func (c *controller) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	c.images.Lock()
	defer c.images.Unlock()
	return &csi.DeleteVolumeResponse{}, answer(c.images.remove(request.VolumeId))
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	c.images.Lock()
	defer c.images.Unlock()
	if _, err := c.images.find(request.VolumeId); err != nil {
		return nil, answer(err)
	}
	for _, capability := range request.VolumeCapabilities {
		if !supported(capability) {
			return &csi.ValidateVolumeCapabilitiesResponse{Message: "a volume of one node"}, nil
		}
	}
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

// CreateSnapshot copies the image while nothing is written to it.
func (c *controller) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if request.Name == "" || request.SourceVolumeId == "" {
		return nil, status.Error(codes.InvalidArgument, "a snapshot needs a name and a volume")
	}
	c.images.Lock()
	defer c.images.Unlock()
	volume, err := c.images.find(request.SourceVolumeId)
	if err != nil {
		return nil, answer(err)
	}
	snapshot := id(snapshotPrefix, request.Name)
	wanted := record{Name: request.Name, Bytes: volume.Bytes, Source: request.SourceVolumeId}
	if err := c.images.make(snapshot, wanted); err != nil {
		return nil, answer(err)
	}
	made, err := os.Stat(c.images.recordPath(snapshot))
	if err != nil {
		return nil, answer(err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId: snapshot, SourceVolumeId: request.SourceVolumeId, SizeBytes: volume.Bytes,
		CreationTime: timestamppb.New(made.ModTime()), ReadyToUse: true,
	}}, nil
}

func (c *controller) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	c.images.Lock()
	defer c.images.Unlock()
	return &csi.DeleteSnapshotResponse{}, answer(c.images.remove(request.SnapshotId))
}

// supported access modes: all that one node can keep.
func supported(capability *csi.VolumeCapability) bool {
	switch capability.GetAccessMode().GetMode() {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return true
	}
	return false
}

// answer turns an error into one with a code of gRPC; nil stays nil.
func answer(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, errOther):
		return status.Error(codes.AlreadyExists, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
