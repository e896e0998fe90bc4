// A CSI driver for the test cluster: each volume is a disk image on a loop device with a file system of its own.
//
// It is as small as real behaviour allows. A volume is full when its size is reached, holds ext4's lost+found, can be
// frozen alone, or be used as a raw device; a snapshot is a copy of the image while its file system is frozen. One
// process is controller, node and registrar, and runs on the host; the provisioner and the snapshotter beside it are
// the released ones.
//
//	driver -images DIR -node NAME -kubelet /var/lib/kubelet
//
// Needs root, losetup, mount, mkfs.ext4 and (for class disk-xfs) mkfs.xfs.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	driverName  = "disk.csi.copal.test"
	topologyKey = "topology.disk.csi.copal.test/node"
)

func main() {
	directory := flag.String("images", "", "where the images of volumes and snapshots lie")
	name := flag.String("node", "", "name of this node")
	kubelet := flag.String("kubelet", "/var/lib/kubelet", "the kubelet's directory")
	flag.Parse()

	images, err := openImages(*directory)
	if err != nil {
		log.Fatal(err)
	}
	socket := filepath.Join(*kubelet, "plugins", driverName, "csi.sock")
	server := grpc.NewServer(grpc.UnaryInterceptor(logErrors))
	csi.RegisterIdentityServer(server, identity{})
	csi.RegisterControllerServer(server, &controller{images: images, node: *name})
	csi.RegisterNodeServer(server, &node{images: images, name: *name})
	go serve(server, socket)

	registrar := grpc.NewServer()
	registration.RegisterRegistrationServer(registrar, &registered{socket: socket})
	serve(registrar, filepath.Join(*kubelet, "plugins_registry", driverName+"-reg.sock"))
}

// serve listens on a unix socket until the process is killed.
func serve(server *grpc.Server, socket string) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		log.Fatal(err)
	}
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}

func logErrors(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, request)
	if err != nil {
		log.Printf("%s: %v", info.FullMethod, err)
	}
	return answer, err
}

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	answer := &csi.GetPluginCapabilitiesResponse{}
	for _, kind := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE,
		csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
	} {
		service := &csi.PluginCapability_Service{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: service}})
	}
	return answer, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// registered tells the kubelet, which watches its directory of sockets, where the driver is.
type registered struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (r *registered) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: driverName, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registered) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("the kubelet does not take the driver: %s", status.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}
